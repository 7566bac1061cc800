"""Targets for tests: labels that exclude each other, regions of them, partial annotation."""

from __future__ import annotations

from selfseg.records.dataset import Label, Region, Targets


def plain(count: int, *, ignore: int | None = None) -> Targets:
    """Return labels 1 … count; `ignore` is a file value."""
    labels = tuple(Label(name=f"label {value}", value=value) for value in range(1, count + 1))
    return Targets(labels=labels, ignore=ignore)


def nested(*, ignore: int | None = None) -> Targets:
    """Return the regions whole (1, 2, 3), core (2, 3) and center (3) of three labels."""
    regions = (
        Region(name="whole", values=(1, 2, 3), value=1),
        Region(name="core", values=(2, 3), value=2),
        Region(name="center", values=(3,), value=3),
    )
    return plain(3, ignore=ignore).model_copy(update={"regions": regions})
