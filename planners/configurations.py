"""Which configurations are worth training, and in which order."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from selfseg.records.fingerprint import Fingerprint
from selfseg.records.names import ConfigurationName
from selfseg.records.plan import Budget, Decision

from .spacing import Grid

# From this ratio of spacings on slices hardly overlap in what they show; below the lower one a
# volume is as fine across as within its slices.
ANISOTROPIC, ISOTROPIC = 3.0, 1.5
FEW_SLICES = 24
FEWEST_SLICES = 3  # with fewer no slice has a neighbor on either side
# Structures so many times longer across the slices than within are followed better in 3D. If half
# of the labels are such, a slab sees too little of the task.
THROUGH_PLANE, MANY_LABELS = 2.0, 0.5
# The bounding box of a label in many pieces tells nothing about the length of a piece.
CONNECTED = 0.75  # share of the largest component from which it does
LITTLE_OF_PLANE = 0.25  # share of the plane in a 3D patch, below which a slab shows more
# 3D is dear below so much memory or on a CPU; that counts where a patch covers less than this.
TIGHT_GIB, MUCH_OF_IMAGE = 8.0, 0.5


FASTER = (
    "on a CPU it learns faster than 3D (generated lesions in 5 mm slices, 3 minutes on two cores: "
    "lesion Dice 0.68 in 2.5D, 0.33 in 2D, 0.00 in 3D)"
)


@dataclass(frozen=True)
class Evidence:
    """What the rules look at, all in working axes (slices first).

    Attributes:
        anisotropy: Largest over smallest spacing.
        slices: Of the median image.
        in_plane_share: Share of the median image's plane that a full-resolution 3D patch covers.
        image_share: The same of the whole median image.
        elongations: Of each connected label, its extent across the slices over that within.
        thinnest: Connected label that spans the fewest slices, and how many; None if there is none.
        budget: Memory and device.
    """

    anisotropy: float
    slices: float
    in_plane_share: float
    image_share: float
    elongations: dict[str, float]
    thinnest: tuple[str, float] | None
    budget: Budget

    @property
    def numbers(self) -> str:
        """The numbers in words."""
        slices = f"{self.slices:g} slice{'s' if self.slices != 1 else ''}"
        words = f"spacing ratio {self.anisotropy:.2g}, {slices}"
        if self.thinnest is not None:
            words += f" of which label {self.thinnest[0]!r} spans {self.thinnest[1]:.2g}"
        return words

    @property
    def longest(self) -> str:
        """Label that runs furthest across the slices, relative to its width."""
        return max(self.elongations, key=lambda name: self.elongations[name])

    @property
    def runs_across(self) -> bool:
        """Many labels are much longer across the slices than within."""
        long = sum(ratio > THROUGH_PLANE for ratio in self.elongations.values())
        return long > 0 and long >= MANY_LABELS * len(self.elongations)

    @property
    def is_dear(self) -> bool:
        """3D steps are slow or small, and a patch sees a part only."""
        scarce = self.budget.device == "cpu" or self.budget.memory_gib < TIGHT_GIB
        return scarce and self.image_share < MUCH_OF_IMAGE


def gather_evidence(
    fingerprint: Fingerprint, grid: Grid, patch_3d: tuple[int, ...] | None, budget: Budget
) -> Evidence:
    """Collect the numbers; `patch_3d` is the full-resolution patch, if there is a third axis."""
    spacing = grid.spacing_mm if grid.median_shape[0] > 1 else grid.spacing_mm[1:]
    shares = [
        min(n / m, 1.0)
        for n, m in zip(patch_3d or grid.median_shape, grid.median_shape, strict=True)
    ]
    connected = [
        label
        for label in fingerprint.labels
        if label.share_of_cases > 0 and label.median_largest_share >= CONNECTED
    ]
    across, spacing_mm = grid.axes[0], grid.spacing_mm[0]
    spans = {label.name: label.median_extent_mm[across] / spacing_mm for label in connected}
    return Evidence(
        anisotropy=max(spacing) / min(spacing),
        slices=grid.median_shape[0],
        in_plane_share=prod(shares[1:]),
        image_share=prod(shares),
        elongations={label.name: _elongation(label.median_extent_mm, grid) for label in connected},
        thinnest=min(spans.items(), key=lambda item: item[1], default=None),
        budget=budget,
    )


def choose_configurations(
    evidence: Evidence, *, has_low: bool
) -> tuple[tuple[ConfigurationName, ...], tuple[Decision, ...]]:
    """Return the configurations worth training, the first one first, and a decision on each.

    2.5D is CN114723669A's idea with the triggers of our own: coarse or few slices; never where the
    volume is isotropic.
    """
    if evidence.slices == 1:
        return ("2d",), (
            _decision("2d", "proposed first", "the images are single slices"),
            *(
                _decision(n, "left out", "the images are single slices")
                for n in ("2.5d", "3d_fullres", "3d_cascade")
            ),
        )
    slab, because_slab = _slab(evidence)
    plane, because_plane = _plane(evidence, has_slab=slab == "proposed")
    volume, because_volume = _volume(evidence)
    order: list[ConfigurationName] = ["3d_fullres"] if volume == "proposed first" else ["2d"]
    if slab == "proposed" and _slab_learns_faster(evidence):
        order.insert(0, "2.5d")
        slab, because_slab = "proposed first", f"{because_slab}; {FASTER}"
        volume = "proposed"
    elif slab == "proposed":
        order.append("2.5d")
    if has_low:
        order += ["3d_lowres", "3d_cascade"]
    if plane == "proposed":
        order.append("2d")
    cascade = (
        _decision("3d_cascade", "proposed", "in full detail, but told what 3d_lowres saw around it")
        if has_low
        else _decision("3d_cascade", "left out", "there is no 3d_lowres to refine")
    )
    decisions = (
        _decision("3d_fullres", volume, because_volume),
        _decision("2.5d", slab, because_slab),
        cascade,
        _decision("2d", plane, because_plane),
    )
    return tuple(order), decisions


def wants_slab(evidence: Evidence) -> bool:
    """Tell whether a 2.5D configuration is planned at all."""
    return evidence.slices >= FEWEST_SLICES and evidence.anisotropy >= ISOTROPIC


def _slab_learns_faster(evidence: Evidence) -> bool:
    """Tell whether 2.5D is the one to train where time is short: coarse slices on a CPU."""
    return evidence.anisotropy >= ANISOTROPIC and evidence.budget.device == "cpu"


def _slab(evidence: Evidence) -> tuple[str, str]:
    numbers = evidence.numbers
    if evidence.slices < FEWEST_SLICES:
        return "left out", f"{numbers}: no slice has a neighbor on either side"
    if not wants_slab(evidence):
        return "left out", (
            f"{numbers}: isotropic (limit {ISOTROPIC:g}), so a few slices show a thin slab of the "
            "body only, and a 3D network sees more for the same work"
        )
    if evidence.runs_across:
        name = evidence.longest
        return "planned, not proposed", (
            f"label {name!r} is {evidence.elongations[name]:.1f} times longer across the slices "
            f"than within (limit {THROUGH_PLANE:g}): a few slices do not show where it runs"
        )
    if evidence.anisotropy >= ANISOTROPIC:
        return "proposed", (
            f"{numbers}: slices are at least {ANISOTROPIC:g} times coarser than pixels; the next "
            "slices tell apart what looks alike in one, further ones hardly matter"
        )
    if evidence.slices < FEW_SLICES:
        return "proposed", (
            f"{numbers}: fewer than {FEW_SLICES} slices leave hardly room to pool across them in 3D"
        )
    return _slab_beside_small_patches(evidence)


def _slab_beside_small_patches(evidence: Evidence) -> tuple[str, str]:
    """Decide on 2.5D where slices are a little coarse: it pays if 3D patches are small."""
    if evidence.in_plane_share < LITTLE_OF_PLANE:
        return "proposed", (
            f"{evidence.numbers}; a 3D patch covers {evidence.in_plane_share:.0%} of the plane "
            f"(limit {LITTLE_OF_PLANE:.0%}), a slab far more"
        )
    if evidence.is_dear:
        return "proposed", (
            f"{evidence.numbers}; with {_means(evidence)} a 3D patch covers "
            f"{evidence.image_share:.0%} of the image (limit {MUCH_OF_IMAGE:.0%}), and a step of "
            "2.5D costs a fraction of one in 3D"
        )
    return "planned, not proposed", (
        f"{evidence.numbers}: neither coarse (limit {ANISOTROPIC:g}) nor few (limit {FEW_SLICES}), "
        f"and a 3D patch covers {evidence.in_plane_share:.0%} of the plane"
    )


def _plane(evidence: Evidence, *, has_slab: bool) -> tuple[str, str]:
    if evidence.slices < FEWEST_SLICES:
        return "proposed first", f"{evidence.numbers}: hardly a third axis"
    if has_slab:
        return "planned, not proposed", "2.5d sees all that 2d sees, and the neighboring slices"
    return "proposed", (
        "a second opinion that is quick to train: its errors differ from those of 3D, so an "
        "ensemble may gain; cross-validation decides"
    )


def _volume(evidence: Evidence) -> tuple[str, str]:
    if evidence.slices < FEWEST_SLICES:
        return "planned, not proposed", f"{evidence.numbers}: hardly a third axis"
    covers = (
        f"with {_means(evidence)} a patch covers {evidence.in_plane_share:.0%} of the plane and "
        f"{evidence.image_share:.0%} of the image"
    )
    if evidence.anisotropy >= ANISOTROPIC:
        return "proposed first", (
            f"{evidence.numbers}; {covers}; it pools in the plane alone until voxels are near "
            "isotropic, and is the baseline that 2.5d has to beat"
        )
    return "proposed first", (
        f"{evidence.numbers}; {covers}: it follows structures from slice to slice"
    )


def _means(evidence: Evidence) -> str:
    device = "a CPU" if evidence.budget.device == "cpu" else "a GPU"
    return f"{evidence.budget.memory_gib:g} GB on {device}"


def _elongation(extent_mm: tuple[float, float, float], grid: Grid) -> float:
    """Return the extent across the slices over the longer one within them."""
    across, *within = (extent_mm[axis] for axis in grid.axes)
    return across / max(within) if max(within) > 0 else 0.0


def _decision(name: str, value: str, because: str) -> Decision:
    return Decision(
        rule="configurations", subject=f"configurations.{name}", value=value, because=because
    )
