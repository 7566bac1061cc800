"""Look at what the loader draws."""

from __future__ import annotations

from typing import Any

import pytest

from selfseg.loading.areas import Area


def watched_draws(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return a list that grows with each drawn sample: whether foreground was forced on it."""
    flags: list[bool] = []
    usual = Area.draw_corner

    def watch(*args: Any, forced: bool) -> Any:
        flags.append(forced)
        return usual(*args, forced=forced)

    monkeypatch.setattr(Area, "draw_corner", watch)
    return flags
