"""Whether images may be mirrored from left to right: not where labels tell the sides apart."""

from __future__ import annotations

import re
from collections.abc import Sequence

from selfseg.records.plan import Decision

LEFT_RIGHT = 2  # canonical axis X, which grows towards the patient's left; the width of a picture
SIDES = {
    "left": "left", "l": "left", "lt": "left", "lh": "left",
    "right": "right", "r": "right", "rt": "right", "rh": "right",
}  # fmt: skip
OTHER = {"left": "right", "right": "left"}
# A lone l, lt, … names no side without a partner: L1 is a vertebra, rt a way to write radiotherapy.
SPELLED_OUT = ("left", "right")
# Words: ABCdef → ABC, def; lungL → lung, L; anything else but letters and digits separates.
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_]+")
GLUED = re.compile(r"(left|right)(.{2,})|(.{2,})(left|right)")

NAMES_SHOWN = 3

Words = tuple[str, ...]


def decide_mirroring(
    names: Sequence[str], axes: tuple[int, int, int]
) -> tuple[tuple[int, ...], Decision]:
    """Turn mirroring from left to right off where two labels differ by their side alone.

    Args:
        names: Of labels and regions.
        axes: Canonical axis of each working axis.

    Returns:
        The working axes (0 to 2) that may be mirrored; and the decision.
    """
    pairs, single = find_pairs(names), find_single_sided(names)
    if pairs:
        fixed = axes.index(LEFT_RIGHT)
        listed = "; ".join(" and ".join(pair) for pair in pairs[:NAMES_SHOWN])
        more = len(pairs) - NAMES_SHOWN
        return tuple(axis for axis in range(3) if axis != fixed), Decision(
            rule="mirroring",
            subject="mirroring",
            value=f"all axes but left-right (working axis {fixed}), in training and prediction",
            because=f"{listed}{f' and {more} more pairs' if more > 0 else ''} differ by their "
            "side: a mirrored image would show each in the other's place, under the wrong name",
            alternatives=("all axes, if the sides look different in themselves",),
        )
    because = "no two labels differ by left and right alone"
    if single:
        because += (
            f"; without a counterpart on the other side ({', '.join(single[:NAMES_SHOWN])}) the "
            "word belongs to the anatomy, and a mirrored image gives it no wrong name"
        )
    return (0, 1, 2), Decision(
        rule="mirroring", subject="mirroring", value="all axes", because=because,
        alternatives=("all axes but left-right",),
    )  # fmt: skip


def find_pairs(names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return names that are equal but for the side, each pair once: `lung_L` and `lung_R`."""
    known = {_key(words): name for name in names if _sided(words := _words(name))}
    pairs = []
    for key, name in known.items():
        partner = known.get(_key(tuple(OTHER.get(word, word) for word in key)))
        if partner is not None and partner != name and (partner, name) not in pairs:
            pairs.append((name, partner))
    return tuple(pairs)


def find_single_sided(names: Sequence[str]) -> tuple[str, ...]:
    """Return names that spell a side out and have no partner: `left_atrium` alone."""
    paired = {name for pair in find_pairs(names) for name in pair}
    return tuple(
        name
        for name in names
        if name not in paired and any(word.casefold() in SPELLED_OUT for word in WORD.findall(name))
    )


def _words(name: str) -> Words:
    """Return a name's words in lower case, sides as `left` and `right` (`leftlung` is split)."""
    words: list[str] = []
    for word in WORD.findall(name):
        plain = word.casefold()
        glued = GLUED.fullmatch(plain)
        parts = [part for part in glued.groups() if part] if glued else [plain]
        words += [SIDES.get(part, part) for part in parts]
    return tuple(words)


def _sided(words: Words) -> bool:
    return any(word in OTHER for word in words)


def _key(words: Words) -> Words:
    """Return the words without their order: `left lung` and `lung right` differ by side only."""
    return tuple(sorted(words))
