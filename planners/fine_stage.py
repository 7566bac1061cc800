"""Whether the cascade looks only around what the coarse stage found, and through which network."""

from __future__ import annotations

from math import pi, prod

from selfseg.records.crop import Crop
from selfseg.records.fingerprint import Fingerprint, LabelSummary
from selfseg.records.network import DualChannel, Network, ResidualUNet, SecondInput, UNet
from selfseg.records.plan import Decision
from selfseg.records.serial import Triple

from .shapes import is_tubular
from .spacing import Grid

# With few cases, what a network learns of the rest of the body does not hold for the next one.
FEW_CASES = 60
# In so many pieces a label is looked for everywhere, and a crop saves little.
MOST_COMPONENTS = 4
SMALL_SHARE = 0.25  # of the image that all crops together may cover
MARGIN_MM = 20.0
# Pieces of the coarse segmentation that are so much smaller than the smallest label's are noise.
NOISE_SHARE = 0.05
LENGTH = 1.5  # of an organ, in diameters of a ball of its volume
CASCADE = "3d_cascade"


def decide_crop(
    fingerprint: Fingerprint, grid: Grid, *, regions: bool
) -> tuple[Crop | None, Decision]:
    """Crop around every component where organs are few, small and known from few cases.

    FS-Net (methods 4.2) localizes first and segments each kidney in its own crop; when that pays is
    our own rule. Regions are not measured, so for them nothing is cropped.
    """
    present = [label for label in fingerprint.labels if label.share_of_cases > 0]
    if regions or not present:
        return None, _left_out("nothing is known of the size of what is segmented")
    cases = len(fingerprint.cases)
    tubes = [item.name for item in present if item.shape and is_tubular(item.shape).holds]
    pieces = max(round(item.median_components) for item in present)
    share = min(pieces * max(_box_share(item, grid) for item in present), 1.0)
    vetoes = [
        (cases > FEW_CASES, f"{cases} cases (limit {FEW_CASES}) show enough of the rest"),
        (bool(tubes), f"label {tubes[0]!r} consists of tubes" if tubes else ""),
        (pieces > MOST_COMPONENTS, f"{pieces} components a case (limit {MOST_COMPONENTS})"),
        (share > SMALL_SHARE, f"crops would cover {share:.0%} of the image ({SMALL_SHARE:.0%})"),
    ]
    reasons = [text for holds, text in vetoes if holds]
    if reasons:
        return None, _left_out("; ".join(reasons))
    smallest = min(item.median_volume_ml * item.median_largest_share for item in present)
    crop = Crop(margin_mm=MARGIN_MM, smallest_ml=float(f"{NOISE_SHARE * smallest:.2g}"))
    plural = "s" if pieces != 1 else ""
    return crop, Decision(
        rule="fine_stage",
        subject=f"configurations.{CASCADE}.crop",
        value=f"{MARGIN_MM:g} mm around components of at least {crop.smallest_ml:g} ml",
        because=f"{cases} cases (limit {FEW_CASES}); {pieces} component{plural} a case, whose "
        f"crops cover {share:.0%} of the image (limit {SMALL_SHARE:.0%}): a few cases teach more "
        "where the coarse stage has found something than all over the body",
        alternatives=("the whole image",),
    )


def decide_variant(network: Network) -> tuple[Network, Decision]:
    """Take the coarse segmentation as second input, the cheapest of three variants."""
    assert isinstance(network, UNet | ResidualUNet)
    value = DualChannel(backbone=network, variant=SecondInput())
    return value, Decision(
        rule="fine_stage",
        subject=f"configurations.{CASCADE}.network.variant",
        value="second_input",
        because="costs nothing; a second encoder takes about 1.6 times the memory, and without a "
        "coarse stage it changed Dice by -0.002 (95 %: -0.007 to +0.003; 5 hippocampus cases, one "
        "training); neither was measured on real data after a coarse stage",
        alternatives=("gated_encoders",),
    )


def _box_share(label: LabelSummary, grid: Grid) -> float:
    """Return the share of the median image that a crop around one component covers."""
    volume_mm3 = 1000 * label.median_volume_ml * label.median_largest_share
    longest_mm = LENGTH * (6 * volume_mm3 / pi) ** (1 / 3)
    image_mm = _image_mm(grid)
    sides = (min(label.median_extent_mm[axis], longest_mm) + 2 * MARGIN_MM for axis in grid.axes)
    return prod(min(side / whole, 1.0) for side, whole in zip(sides, image_mm, strict=True))


def _image_mm(grid: Grid) -> Triple:
    z, y, x = (n * mm for n, mm in zip(grid.median_shape, grid.spacing_mm, strict=True))
    return (z, y, x)


def _left_out(because: str) -> Decision:
    return Decision(
        rule="fine_stage",
        subject=f"configurations.{CASCADE}.crop",
        value="the whole image",
        because=because,
        alternatives=("crops around components",),
    )
