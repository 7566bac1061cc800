"""Which configurations are worth training, and in which order."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from selfseg.records.fingerprint import Fingerprint
from selfseg.records.plan import ConfigurationName, Decision

from .spacing import Grid

# From this ratio of spacings on slices hardly overlap in what they show; below the lower one a
# volume is as fine across as within its slices.
ANISOTROPIC, ISOTROPIC = 3.0, 1.5
FEW_SLICES = 24
# Structures so many times longer across the slices than within are followed better in 3D.
THROUGH_PLANE = 2.0


@dataclass(frozen=True)
class Evidence:
    """What the rules look at, all in working axes (slices first).

    Attributes:
        anisotropy: Largest over smallest spacing.
        slices: Of the median image.
        in_plane_share: Share of the median image's plane that a full-resolution 3D patch covers.
        elongation: Largest extent across the slices over that within, of any label (0: unknown).
        longest: Label that has it.
    """

    anisotropy: float
    slices: float
    in_plane_share: float
    elongation: float
    longest: str

    @property
    def few(self) -> str:
        """The numbers in words."""
        return f"spacing ratio {self.anisotropy:.2g}, {self.slices:g} slices"


def gather_evidence(
    fingerprint: Fingerprint, grid: Grid, patch_3d: tuple[int, ...] | None
) -> Evidence:
    """Collect the numbers; `patch_3d` is the full-resolution patch, if there is a third axis."""
    spacing = grid.spacing_mm if grid.median_shape[0] > 1 else grid.spacing_mm[1:]
    elongations = {
        label.name: _elongation(label.median_extent_mm, grid) for label in fingerprint.labels
    }
    longest = max(elongations, key=lambda name: elongations[name], default="")
    share = 1.0 if patch_3d is None else prod(patch_3d[1:]) / prod(grid.median_shape[1:])
    return Evidence(
        anisotropy=max(spacing) / min(spacing),
        slices=grid.median_shape[0],
        in_plane_share=min(share, 1.0),
        elongation=elongations.get(longest, 0.0),
        longest=longest,
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
    order: list[ConfigurationName] = ["3d_fullres"]
    if slab == "proposed":
        order.append("2.5d")
    if has_low:
        order += ["3d_lowres", "3d_cascade"]
    plane, because_plane = _plane(evidence, has_slab=slab == "proposed")
    if plane == "proposed":
        order.append("2d")
    cascade = (
        _decision(
            "3d_cascade",
            "proposed",
            "refines 3d_lowres, which sees the whole image, in full detail",
        )
        if has_low
        else _decision("3d_cascade", "left out", "there is no 3d_lowres to refine")
    )
    decisions = (
        _decision("3d_fullres", "proposed first", _volume_reason(evidence)),
        _decision("2.5d", slab, because_slab),
        cascade,
        _decision("2d", plane, because_plane),
    )
    return tuple(order), decisions


def wants_slab(evidence: Evidence) -> bool:
    """Tell whether a 2.5D configuration is planned at all."""
    return evidence.slices > 1 and evidence.anisotropy >= ISOTROPIC


def _slab(evidence: Evidence) -> tuple[str, str]:
    if not wants_slab(evidence):
        return "left out", (
            f"{evidence.few}: isotropic (limit {ISOTROPIC:g}), so a 3D network sees more for the "
            "same work"
        )
    if evidence.elongation > THROUGH_PLANE:
        return "planned, not proposed", (
            f"label {evidence.longest!r} is {evidence.elongation:.1f} times longer across the "
            f"slices than within (limit {THROUGH_PLANE:g}): a few slices do not show where it runs"
        )
    if evidence.anisotropy >= ANISOTROPIC:
        return "proposed", (
            f"{evidence.few}: slices are at least {ANISOTROPIC:g} times coarser than pixels; a "
            "few neighbors tell structures apart, and in-plane detail counts most"
        )
    if evidence.slices < FEW_SLICES:
        return "proposed", (
            f"{evidence.few}: fewer than {FEW_SLICES}, hardly room to pool across them in 3D"
        )
    return "planned, not proposed", (
        f"{evidence.few}: neither coarse (limit {ANISOTROPIC:g}) nor few (limit {FEW_SLICES})"
    )


def _plane(evidence: Evidence, *, has_slab: bool) -> tuple[str, str]:
    if has_slab:
        return "planned, not proposed", "2.5d sees all that 2d sees, and the neighboring slices"
    return "proposed", (
        "a second opinion: its errors differ from those of 3D, so an ensemble may gain; "
        "cross-validation decides"
    )


def _volume_reason(evidence: Evidence) -> str:
    if evidence.anisotropy >= ANISOTROPIC:
        return (
            f"{evidence.few}: its kernels and strides leave the coarse axis alone until voxels are "
            "near isotropic; the baseline that 2.5D has to beat"
        )
    return (
        f"{evidence.few}: structures continue from slice to slice; a patch covers "
        f"{evidence.in_plane_share:.0%} of the plane"
    )


def _elongation(extent_mm: tuple[float, float, float], grid: Grid) -> float:
    """Return the extent across the slices over the longer one within them."""
    across, *within = np.asarray(extent_mm)[list(grid.axes)]
    return float(across / max(within)) if max(within) > 0 else 0.0


def _decision(name: str, value: str, because: str) -> Decision:
    return Decision(
        rule="configurations", subject=f"configurations.{name}", value=value, because=because
    )
