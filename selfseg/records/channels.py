"""Which channels of a model and of data stand for each other: one rule for all."""

from __future__ import annotations

from collections.abc import Sequence


def match_channels(source: Sequence[str], target: Sequence[str]) -> tuple[int | None, ...]:
    """Return for each target channel the index of the source channel that stands for it, or None.

    Names decide, in any case. As many channels of which no name agrees are taken in order.
    """
    theirs, ours = same_case(source), same_case(target)
    if ours == theirs or are_in_order(source, target):
        return tuple(range(len(ours)))
    return tuple(theirs.index(name) if name in theirs else None for name in ours)


def are_in_order(source: Sequence[str], target: Sequence[str]) -> bool:
    """Tell whether there are as many channels, of which no name agrees: order decides then."""
    return len(source) == len(target) and not set(same_case(source)) & set(same_case(target))


def are_alike(source: Sequence[str], target: Sequence[str]) -> bool:
    """Tell whether both have channels of the same names, in whatever order."""
    return sorted(same_case(source)) == sorted(same_case(target))


def channel_order(source: Sequence[str], target: Sequence[str]) -> tuple[int, ...] | None:
    """Return `match_channels` where each channel has just one counterpart; else None."""
    found = [index for index in match_channels(source, target) if index is not None]
    is_whole = len(source) == len(target) and set(found) == set(range(len(source)))
    return tuple(found) if is_whole else None


def same_case(names: Sequence[str]) -> list[str]:
    """Return names as they are compared."""
    return [name.casefold() for name in names]
