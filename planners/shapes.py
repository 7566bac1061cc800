"""What kind of shape a label has: tubular or compact; each verdict with its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from selfseg.records.shapes import ShapeSummary

# Tubes: center lines of so many diameters, a volume near that of a tube along them, and branches
# that are long themselves. The last keeps lumpy bodies out, whose center lines branch until they
# fill the body. Measured branches, in diameters: hippocampi, livers, colons, tumors 0.7 to 3.7;
# portal veins 13 to 15, retinal vessels 27 to 49; but a ragged portal vein in a thin slab 1.6.
TUBE_ELONGATION = 10.0
TUBE_RATIO = (0.4, 2.5)
TUBE_BRANCH = 4.0
# Compact: one piece, nearly always there, of like size, form and place in all cases. Sphericity
# and one piece alone do not tell organs from tumors: all of these must hold.
COMPACT_LARGEST_SHARE = 0.98
COMPACT_PRESENCE = 0.95
COMPACT_SPHERICITY = 0.35
COMPACT_ALIGNED_DICE = 0.6
COMPACT_VOLUME_CV = 0.6
COMPACT_POSITION_SPREAD = 0.1


class Verdict(NamedTuple):
    """Whether a label is of a kind, and why: what fails, or else all that holds."""

    holds: bool
    because: str


def is_tubular(shape: ShapeSummary) -> Verdict:
    """Tell whether a label consists of tubes, such as vessels."""
    low, high = TUBE_RATIO
    ratio, branch = shape.median_tube_ratio, shape.median_branch_elongation
    return _judge(
        (
            shape.median_elongation >= TUBE_ELONGATION,
            f"center lines of {shape.median_elongation:.3g} diameters",
            f"at least {TUBE_ELONGATION:g}",
        ),
        (
            low <= ratio <= high,
            f"{ratio:.3g} times the volume of a tube along them",
            f"{low:g} to {high:g}",
        ),
        (
            branch >= TUBE_BRANCH,
            f"branches of {branch:.3g} diameters",
            f"at least {TUBE_BRANCH:g}",
        ),
    )


def is_compact(shape: ShapeSummary) -> Verdict:
    """Tell whether a label is a body of about the same size, form and place in all cases."""
    dice, spread, place = shape.aligned_dice, shape.volume_cv, shape.position_spread
    if dice is None or spread is None or place is None:
        return Verdict(False, "fewer than two cases have the label: nothing to compare")
    return _judge(
        (
            shape.median_largest_share >= COMPACT_LARGEST_SHARE,
            f"largest component {shape.median_largest_share:.3g} of the volume",
            f"at least {COMPACT_LARGEST_SHARE:g}",
        ),
        (
            shape.share_of_cases >= COMPACT_PRESENCE,
            f"in {shape.share_of_cases:.0%} of the cases",
            f"at least {COMPACT_PRESENCE:.0%}",
        ),
        (
            shape.median_sphericity >= COMPACT_SPHERICITY,
            f"sphericity {shape.median_sphericity:.3g}",
            f"at least {COMPACT_SPHERICITY:g}",
        ),
        (
            dice >= COMPACT_ALIGNED_DICE,
            f"Dice {dice:.3g} between aligned cases",
            f"at least {COMPACT_ALIGNED_DICE:g}",
        ),
        (
            spread <= COMPACT_VOLUME_CV,
            f"volume varying by {spread:.3g} of its mean",
            f"at most {COMPACT_VOLUME_CV:g}",
        ),
        (
            place <= COMPACT_POSITION_SPREAD,
            f"place varying by {place:.3g} of the body",
            f"at most {COMPACT_POSITION_SPREAD:g}",
        ),
    )


def _judge(*conditions: tuple[bool, str, str]) -> Verdict:
    """Return the verdict on conditions: fulfilled, what was found, what is asked for."""
    failed = [condition for condition in conditions if not condition[0]]
    return Verdict(not failed, _sentence(failed or conditions))


def _sentence(conditions: Sequence[tuple[bool, str, str]]) -> str:
    return "; ".join(f"{found} (asked: {asked})" for _, found, asked in conditions)
