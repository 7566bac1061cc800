"""Metrics and scores of two public challenges, as their evaluation programs compute them.

SLIVER07: van Ginneken, Heimann and Styner (2007), "3D segmentation in the clinic: a grand
challenge", and Heimann et al. (2009), doi:10.1109/TMI.2009.2013851. CHAOS: Kavur et al. (2021),
doi:10.1016/j.media.2020.101950.

Both measure between the centers of border voxels, each of which counts once; this is not the
surface of `selfseg.evaluation.surface`. The border is the mask without its erosion, and what lies
beyond the image never makes a border. The erosions differ:

- SLIVER07: a ball of radius 1, which in the program's library has the 18 neighbors that share a
  face or an edge.
- CHAOS: the 6 neighbors that share a face, as in its Python program; its document speaks of
  3×3×3 neighborhoods.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

from selfseg.evaluation.overlap import Overlap
from selfseg.evaluation.surface import bounding_box, continued
from selfseg.records.challenge import ChaosScores, Sliver07Scores
from selfseg.records.serial import Triple

FACES = ndimage.generate_binary_structure(3, 1)
FACES_AND_EDGES = ndimage.generate_binary_structure(3, 2)

# Mean errors of a second human rater in SLIVER07; such an error scores 75.
RATER_VOE_PERCENT, RATER_RVD_PERCENT = 6.4, 4.7
RATER_ASD_MM, RATER_RMSD_MM, RATER_MSD_MM = 1.0, 1.8, 19.0
# The SLIVER07 program puts one border voxel at this index where a mask has none.
PLANTED = (1, 1, 1)

# Limits of CHAOS beyond which a metric scores 0.
LEAST_DICE, MOST_RAVD_PERCENT, MOST_ASSD_MM, MOST_MSSD_MM = 0.8, 5.0, 15.0, 60.0


@dataclass(frozen=True)
class Borders:
    """Border voxel centers (n, 3) in mm: all, and those that are measured from.

    They differ where annotation is partial: borders outside of it are only measured to.
    """

    all: np.ndarray
    counted: np.ndarray


def sliver07(
    a: np.ndarray, b: np.ndarray, spacing_mm: Triple, known: np.ndarray | None = None
) -> Sliver07Scores:
    """Compare a result with a reference as the SLIVER07 program does.

    An empty result has, as in the program, one border voxel at index (1, 1, 1). An empty reference
    leaves everything undefined.

    Args:
        a: Result, boolean (z, y, x); the whole image, not a part of it.
        b: Reference of the same shape.
        spacing_mm: Voxel size.
        known: Where the reference is known; default: everywhere. Elsewhere both masks are taken
            to be as at the nearest known voxel, and borders there are not measured from.
    """
    overlap = _overlap(a, b, known)
    if not overlap.reference:
        return Sliver07Scores.model_validate(dict.fromkeys(Sliver07Scores.model_fields))
    of_a, of_b = _borders(a, b, spacing_mm, FACES_AND_EDGES, known)
    distances = _distances_mm(_planted(of_a, spacing_mm), _planted(of_b, spacing_mm))
    union = overlap.predicted + overlap.reference - overlap.both
    return sliver07_scores(
        voe_percent=100 * (1 - overlap.both / union),
        rvd_percent=100 * (overlap.predicted - overlap.reference) / overlap.reference,
        asd_mm=float(distances.mean()),
        rmsd_mm=float(np.sqrt((distances**2).mean())),
        msd_mm=float(distances.max()),
    )


def sliver07_scores(
    *, voe_percent: float, rvd_percent: float, asd_mm: float, rmsd_mm: float, msd_mm: float
) -> Sliver07Scores:
    """Score errors: 100 without error, 75 at that of a human rater, never below 0."""
    scores = (
        _linear(voe_percent, RATER_VOE_PERCENT),
        _linear(abs(rvd_percent), RATER_RVD_PERCENT),
        _linear(asd_mm, RATER_ASD_MM),
        _linear(rmsd_mm, RATER_RMSD_MM),
        _linear(msd_mm, RATER_MSD_MM),
    )
    return Sliver07Scores(
        voe_percent=voe_percent,
        rvd_percent=rvd_percent,
        asd_mm=asd_mm,
        rmsd_mm=rmsd_mm,
        msd_mm=msd_mm,
        voe_score=scores[0],
        rvd_score=scores[1],
        asd_score=scores[2],
        rmsd_score=scores[3],
        msd_score=scores[4],
        total_score=sum(scores) / len(scores),
    )


def dice_of_voe(voe_percent: float) -> float:
    """Return the Dice coefficient that belongs to a volumetric overlap error in percent."""
    error = voe_percent / 100
    return 2 * (1 - error) / (2 - error)


def chaos(
    a: np.ndarray, b: np.ndarray, spacing_mm: Triple, known: np.ndarray | None = None
) -> ChaosScores:
    """Compare a result with a reference as the CHAOS program does.

    The program fails on an empty result; here its distances are undefined and score 0. An empty
    reference leaves everything undefined. Arguments: see `sliver07`.
    """
    overlap = _overlap(a, b, known)
    if not overlap.reference:
        return ChaosScores.model_validate(dict.fromkeys(ChaosScores.model_fields))
    distances = _distances_mm(*_borders(a, b, spacing_mm, FACES, known))
    measured = overlap.predicted > 0 and bool(np.isfinite(distances).all())
    return chaos_scores(
        dice=2 * overlap.both / (overlap.predicted + overlap.reference),
        ravd_percent=100 * abs(overlap.predicted - overlap.reference) / overlap.reference,
        assd_mm=float(distances.mean()) if measured else None,
        mssd_mm=float(distances.max()) if measured else None,
    )


def chaos_scores(
    *, dice: float, ravd_percent: float, assd_mm: float | None, mssd_mm: float | None
) -> ChaosScores:
    """Score metrics, 0 to 100: linear up to a limit, nothing beyond it or where undefined.

    The limits cut: at a Dice coefficient of 0.8 the score is 80, below it is 0.
    """
    scores = (
        100 * dice if dice >= LEAST_DICE else 0.0,
        _limited(ravd_percent, MOST_RAVD_PERCENT),
        _limited(assd_mm, MOST_ASSD_MM),
        _limited(mssd_mm, MOST_MSSD_MM),
    )
    return ChaosScores(
        dice=dice,
        ravd_percent=ravd_percent,
        assd_mm=assd_mm,
        mssd_mm=mssd_mm,
        dice_score=scores[0],
        ravd_score=scores[1],
        assd_score=scores[2],
        mssd_score=scores[3],
        total_score=sum(scores) / len(scores),
    )


def _overlap(a: np.ndarray, b: np.ndarray, known: np.ndarray | None) -> Overlap:
    if a.shape != b.shape:
        raise ValueError(f"masks should have one shape, not {a.shape} and {b.shape}")
    if known is not None:
        a, b = a & known, b & known
    counts = (int(np.count_nonzero(mask)) for mask in (a, b, a & b))
    return Overlap(*counts)


def _borders(
    a: np.ndarray,
    b: np.ndarray,
    spacing_mm: Triple,
    structure: np.ndarray,
    known: np.ndarray | None,
) -> tuple[Borders, Borders]:
    """Return the borders of two masks, measured from the first voxel of the image."""
    if known is not None:
        a, b = a & known, b & known
    # The margin keeps a side of a mask apart from a side of the image, which makes no border.
    box = bounding_box(a | b, margin=1)
    first = np.array([part.start for part in box])
    a, b = a[box], b[box]
    if known is not None:
        a, b, known = continued(a, b, known[box], spacing_mm)
    found = []
    for mask in (a, b):
        border = mask & ~ndimage.binary_erosion(mask, structure, border_value=1)
        cells = np.argwhere(border)
        counted = cells if known is None else cells[known[tuple(cells.T)]]
        found.append(Borders((cells + first) * spacing_mm, (counted + first) * spacing_mm))
    return found[0], found[1]


def _planted(borders: Borders, spacing_mm: Triple) -> Borders:
    if len(borders.all):
        return borders
    point = np.array([PLANTED]) * spacing_mm
    return Borders(point, point)


def _distances_mm(of_a: Borders, of_b: Borders) -> np.ndarray:
    """Return the distance of every counted border voxel to the nearest of the other border.

    Infinite where the other mask has no border; 0 once where neither has one that counts.
    """
    found = [_nearest_mm(of_a.counted, of_b.all), _nearest_mm(of_b.counted, of_a.all)]
    return np.concatenate(found) if sum(map(len, found)) else np.zeros(1)


def _nearest_mm(places: np.ndarray, target: np.ndarray) -> np.ndarray:
    if not len(places) or not len(target):
        return np.full(len(places), np.inf)
    # On a lattice the quick way to build the tree is also the quick one to search.
    tree = KDTree(target, balanced_tree=False, compact_nodes=False)
    return np.asarray(tree.query(places)[0])


def _linear(error: float, rater: float) -> float:
    """Return the SLIVER07 score of an error, given that of a human rater."""
    return max(0.0, 100 - 25 * error / rater)


def _limited(error: float | None, limit: float) -> float:
    """Return the CHAOS score of an error that scores nothing from `limit` on."""
    return 0.0 if error is None or error > limit else 100 * (1 - error / limit)
