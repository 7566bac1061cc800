"""Which axes may be mirrored: not left-right where labels come in left and right pairs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from selfseg.records.plan import Decision

LEFT, RIGHT = ("left", "l", "lt", "lft"), ("right", "r", "rt", "rgt")
SIDE = {**dict.fromkeys(LEFT, "left"), **dict.fromkeys(RIGHT, "right")}
LEFT_RIGHT = 2  # canonical axis X
# Words of a name: at separators, and where a small letter meets a capital one.
BORDER = re.compile(r"[^0-9A-Za-z]+|(?<=[a-z])(?=[A-Z])")


def decide_mirroring(
    names: Sequence[str], axes: tuple[int, int, int]
) -> tuple[tuple[int, ...], Decision]:
    """Return the working axes (0 to 2) that may be mirrored.

    Args:
        names: Of labels and regions.
        axes: Canonical axis of each working axis.
    """
    pairs = find_pairs(names)
    sided = [name for name in names if _split(name) is not None]
    if pairs:
        allowed = tuple(index for index, axis in enumerate(axes) if axis != LEFT_RIGHT)
        value = "all axes but left-right"
        shown = ", ".join(f"{left} / {right}" for left, right in pairs[:3])
        because = f"labels in pairs ({shown}): a mirrored image would show each on the wrong side"
    else:
        allowed, value = (0, 1, 2), "all axes"
        because = "no labels in left and right pairs"
        if sided:
            because += f" ({', '.join(sided[:3])} has no counterpart: its name says what it is)"
    return allowed, Decision(rule="mirroring", subject="mirroring", value=value, because=because)


def find_pairs(names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return pairs of names that differ in their side only: `kidney_left`, `kidney_right`."""
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for name in names:
        split = _split(name)
        if split is not None:
            side, rest = split
            found.setdefault(rest, {})[side] = name
    return tuple((sides["left"], sides["right"]) for sides in found.values() if len(sides) == 2)


def _split(name: str) -> tuple[str, tuple[str, ...]] | None:
    """Return the side in a name and the rest of its words; None if it names no side or both."""
    words = [word.lower() for word in BORDER.split(name) if word]
    sides = {SIDE[word] for word in words if word in SIDE}
    if len(sides) != 1:
        return None
    return sides.pop(), tuple("*" if word in SIDE else word for word in words)
