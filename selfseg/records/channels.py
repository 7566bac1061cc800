"""Which channels of a model and of data stand for each other: one rule for all."""

from __future__ import annotations

from collections.abc import Sequence


def match_channels(source: Sequence[str], target: Sequence[str]) -> tuple[int | None, ...]:
    """Return for each target channel the index of the source channel that stands for it, or None.

    Names decide, in any case. As many channels of which no name agrees are taken in order.
    """
    theirs, ours = _names(source), _names(target)
    in_order = len(ours) == len(theirs) and not set(ours) & set(theirs)
    if ours == theirs or in_order:
        return tuple(range(len(ours)))
    return tuple(theirs.index(name) if name in theirs else None for name in ours)


def are_alike(source: Sequence[str], target: Sequence[str]) -> bool:
    """Tell whether both have channels of the same names, in whatever order."""
    return sorted(_names(source)) == sorted(_names(target))


def channel_order(source: Sequence[str], target: Sequence[str]) -> tuple[int, ...] | None:
    """Return `match_channels` where each channel has just one counterpart; else None."""
    found = [index for index in match_channels(source, target) if index is not None]
    is_whole = len(source) == len(target) and set(found) == set(range(len(source)))
    return tuple(found) if is_whole else None


def _names(names: Sequence[str]) -> list[str]:
    return [name.casefold() for name in names]
