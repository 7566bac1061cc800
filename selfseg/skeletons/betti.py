"""Topology in numbers: components, tunnels and cavities of a mask."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def betti_numbers(mask: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    """Return the Betti numbers of a mask.

    Foreground touches by corners (26 neighbors; 8 in 2D), background by faces (6; 4 in 2D). What
    lies beyond the array is background. Tunnels follow from the Euler number b0 - b1 + b2.

    Args:
        mask: Boolean array of two or three axes.

    Returns:
        (components, holes) in 2D; (components, tunnels, cavities) in 3D.
    """
    from scipy import ndimage
    from skimage.measure import euler_number

    padded = np.pad(np.asarray(mask, bool), 1)
    components = ndimage.label(padded, structure=np.ones((3,) * padded.ndim))[1]
    enclosed = ndimage.label(~padded)[1] - 1
    if padded.ndim == 2:
        return components, enclosed
    tunnels = components + enclosed - euler_number(padded, connectivity=3)
    return components, int(tunnels), enclosed
