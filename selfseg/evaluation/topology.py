"""Whether tubes hang together: Betti errors, clDice, and what was found of thin and thick parts.

Foreground touches by corners (8 neighbors in 2D, 26 in 3D), background by sides (4, 6). Which
connectivity is taken, and single misplaced voxels of a reference, can turn the order of methods
(Berger et al., 2024, arXiv:2412.14619), so errors are given dimension by dimension. Everything is
measured in voxels; a volume that is one voxel thick is taken as a plane.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
from scipy import ndimage

from selfseg.evaluation.surface import bounding_box
from selfseg.records.metrics import TopologyScores
from selfseg.skeletons import betti_numbers, thin

WINDOW = 64  # voxels along an axis: what is usual for Betti errors of vessels and neurons
THIN = 3  # largest local diameter, in voxels, of a thin part


def topology_scores(
    a: np.ndarray, b: np.ndarray, known: np.ndarray | None = None
) -> TopologyScores:
    """Compare the topology of a prediction with that of a reference.

    Args:
        a: Prediction, boolean (z, y, x), the whole image: windows begin at its first voxel.
        b: Reference of the same shape.
        known: Where the reference is known; default: everywhere. Elsewhere both masks are taken
            to be empty.
    """
    if a.shape != b.shape:
        raise ValueError(f"masks should have one shape, not {a.shape} and {b.shape}")
    if known is not None:
        a, b = a & known, b & known
    a, b = _plane(a), _plane(b)
    box = bounding_box(a | b)
    inner_a, inner_b = a[box], b[box]
    whole = betti_errors(inner_a, inner_b)
    in_windows = window_errors(a, b)
    recall = recall_by_thickness(inner_a, inner_b)
    return TopologyScores(
        betti0_error=whole[0],
        betti1_error=whole[1],
        betti2_error=whole[2],
        betti0_window_error=in_windows[0],
        betti1_window_error=in_windows[1],
        betti2_window_error=in_windows[2],
        cldice=centerline_dice(inner_a, inner_b),
        thin_recall=recall[0],
        thick_recall=recall[1],
    )


def betti_errors(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float | None]:
    """Return how far the numbers of components, tunnels and cavities of two masks differ.

    In 2D these are components and holes; the third is None.
    """
    numbers = (betti_numbers(mask) if mask.any() else (0,) * mask.ndim for mask in (a, b))
    errors = [float(abs(p - q)) for p, q in zip(*numbers, strict=True)]
    return errors[0], errors[1], errors[2] if len(errors) == 3 else None


def window_errors(
    a: np.ndarray, b: np.ndarray, size: int = WINDOW
) -> tuple[float | None, float | None, float | None]:
    """Return the mean Betti errors over windows that are not empty in both masks.

    Windows lie side by side from the first voxel on; the last ones are smaller. Beyond a window
    everything is background. None where all windows are empty.
    """
    errors = [betti_errors(a[w], b[w]) for w in _windows(a.shape, size) if (a[w] | b[w]).any()]
    if not errors:
        return None, None, None
    first, second, third = zip(*errors, strict=True)
    known = [error for error in third if error is not None]
    count = len(errors)
    return sum(first) / count, sum(second) / count, sum(known) / count if known else None


def centerline_dice(a: np.ndarray, b: np.ndarray) -> float | None:
    """Return clDice (Shit et al., 2021, arXiv:2003.07311) with skeletons of one voxel.

    The harmonic mean of two shares: of the prediction's skeleton inside the reference, and of the
    reference's skeleton inside the prediction. None if both masks are empty, 0 if one is.
    """
    if not a.any() and not b.any():
        return None
    if not a.any() or not b.any():
        return 0.0
    precision, sensitivity = _share(thin(a), b), _share(thin(b), a)
    total = precision + sensitivity
    return 2 * precision * sensitivity / total if total else 0.0


def recall_by_thickness(a: np.ndarray, b: np.ndarray) -> tuple[float | None, float | None]:
    """Return which share of the thin and of the thick voxels of a reference was found.

    None where the reference has no such voxels. Arguments: prediction and reference.
    """
    thin_part = thin_voxels(b)
    thick_part = b & ~thin_part
    thin_recall = _share(thin_part, a) if thin_part.any() else None
    return thin_recall, _share(thick_part, a) if thick_part.any() else None


def thin_voxels(mask: np.ndarray, largest: int = THIN) -> np.ndarray:
    """Return the voxels of a mask whose local diameter is at most `largest` voxels.

    A ball that is one voxel wider is moved about inside the mask. What it covers is thick, and so
    is what it leaves of a thick part, such as corners: there the nearest skeleton voxel decides.
    """
    if not mask.any():
        return mask.copy()
    padded = np.pad(mask, largest + 1)
    covered = ndimage.binary_opening(padded, _ball(largest + 1, mask.ndim))
    covered = covered[(slice(largest + 1, -largest - 1),) * mask.ndim]
    nearest = ndimage.distance_transform_edt(
        ~thin(mask), return_distances=False, return_indices=True
    )
    found: np.ndarray = mask & ~covered & ~covered[tuple(nearest)]
    return found


def _ball(diameter: int, dims: int) -> np.ndarray:
    """Return the voxels of a ball whose diameter is a whole number of voxels."""
    offsets = np.indices((diameter,) * dims) - (diameter - 1) / 2
    return np.asarray((offsets**2).sum(axis=0) <= (diameter / 2) ** 2)


def _share(part: np.ndarray, mask: np.ndarray) -> float:
    return int(np.count_nonzero(part & mask)) / int(np.count_nonzero(part))


def _plane(mask: np.ndarray) -> np.ndarray:
    """Return (y, x) of a volume that is one voxel thick along one axis."""
    single = [axis for axis, size in enumerate(mask.shape) if size == 1]
    return mask.squeeze(single[0]) if mask.ndim == 3 and len(single) == 1 else mask


def _windows(shape: tuple[int, ...], size: int) -> Iterator[tuple[slice, ...]]:
    starts = (range(0, length, size) for length in shape)
    for corner in product(*starts):
        yield tuple(slice(start, start + size) for start in corner)
