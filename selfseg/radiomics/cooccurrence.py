"""How often levels stand beside each other: grey-level co-occurrence (IBSI, 3.6).

Symmetric, distance of one voxel, 13 directions of a volume, *merged*: the counts of all directions
are summed and give one set of features.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from selfseg.radiomics.region import Floats, Levels

# One of each pair of opposite neighbors.
DIRECTIONS = tuple(step for step in product((-1, 0, 1), repeat=3) if step > (0, 0, 0))


def cooccurrence_features(levels: Levels) -> dict[str, float]:
    """Return the features of levels (z, y, x), 1 and up in the region and 0 outside.

    A region without neighbors (a single voxel) counts as one whose neighbors are all equal.
    """
    count = int(levels.max())
    counts = [_pairs(levels, step, count) for step in DIRECTIONS]
    present = [matrix for matrix in counts if matrix.sum() > 0]
    if not present:
        present = [np.diag(np.bincount(levels[levels > 0], minlength=count + 1)[1:]).astype(float)]
    return features_of(sum(present[1:], start=present[0]))


def features_of(counts: Floats) -> dict[str, float]:
    """Return the features of a symmetric matrix of counts (levels, levels) that is not zero."""
    p = counts / counts.sum()
    levels = len(p)
    grades = np.arange(1, levels + 1, dtype=np.float64)
    i, j = np.meshgrid(grades, grades, indexing="ij")
    marginal = p.sum(axis=1)
    mean = float(grades @ marginal)
    variance = float((grades - mean) ** 2 @ marginal)
    joint_entropy = _entropy(p.ravel())
    steps = np.arange(levels, dtype=np.float64)
    by_step = _sums(np.abs(i - j), p)
    by_sum = _sums(i + j, p)
    step_mean = float(steps @ by_step)
    centered = i + j - 2 * mean
    return {
        "joint_maximum": float(p.max()),
        "joint_average": mean,
        "joint_variance": variance,
        "joint_entropy": joint_entropy,
        "difference_variance": float((steps - step_mean) ** 2 @ by_step),
        "difference_entropy": _entropy(by_step),
        "sum_entropy": _entropy(by_sum),
        "angular_second_moment": float(np.square(p).sum()),
        "contrast": float(steps**2 @ by_step),
        "dissimilarity": step_mean,
        "inverse_difference": float((by_step / (1 + steps)).sum()),
        "inverse_difference_normalized": float((by_step / (1 + steps / levels)).sum()),
        "inverse_difference_moment": float((by_step / (1 + steps**2)).sum()),
        "inverse_difference_moment_normalized": float((by_step / (1 + steps**2 / levels**2)).sum()),
        "inverse_variance": float((by_step[1:] / steps[1:] ** 2).sum()),
        "correlation": float(((i - mean) * (j - mean) * p).sum()) / variance if variance else 1.0,
        "autocorrelation": float((i * j * p).sum()),
        "cluster_tendency": float((centered**2 * p).sum()),
        "cluster_shade": float((centered**3 * p).sum()),
        "cluster_prominence": float((centered**4 * p).sum()),
        **_information(joint_entropy, _entropy(marginal)),
    }


def _information(joint: float, single: float) -> dict[str, float]:
    """Return both measures of what a level tells of its neighbor, from entropies in bits.

    The matrix is symmetric, so the entropy of independent neighbors is twice that of one.
    """
    independent = 2 * single
    return {
        "information_1": (joint - independent) / single if single > 0 else 0.0,
        "information_2": float(np.sqrt(max(0.0, 1 - np.exp(-2 * (independent - joint))))),
    }


def _pairs(levels: Levels, step: tuple[int, ...], count: int) -> Floats:
    """Return how often two levels are one step apart, in either order (count, count)."""
    sized = list(zip(step, levels.shape, strict=True))
    first = tuple(slice(max(-s, 0), size - max(s, 0)) for s, size in sized)
    second = tuple(slice(max(s, 0), size - max(-s, 0)) for s, size in sized)
    a, b = levels[first].ravel(), levels[second].ravel()
    both = (a > 0) & (b > 0)
    joint = (a[both] - 1) * count + b[both] - 1
    matrix = np.bincount(joint, minlength=count * count).reshape(count, count).astype(np.float64)
    return matrix + matrix.T


def _sums(places: Floats, p: Floats) -> Floats:
    """Return the sum of `p` at each whole number that `places` has, from 0 on."""
    return np.asarray(np.bincount(places.astype(int).ravel(), p.ravel()), np.float64)


def _entropy(shares: Floats) -> float:
    """Return the entropy in bits."""
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum()) + 0.0
