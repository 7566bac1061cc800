"""Test-time augmentation: the mean of the logits over all mirror images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, combinations

import torch
from torch import Tensor


def mirror_combinations(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Return every subset of the axes, the empty one first: 8 for three axes."""
    subsets = (combinations(sorted(axes), size) for size in range(len(axes) + 1))
    return list(chain.from_iterable(subsets))


def mirrored_mean(
    forward: Callable[[Tensor], Tensor], batch: Tensor, axes: Sequence[int], *, limit: int
) -> Tensor:
    """Average the logits of a batch over all mirror images, each mirrored back.

    Args:
        forward: Maps (b, c, *spatial) to logits (b, k, *spatial).
        batch: Patches (b, c, *spatial).
        axes: Spatial axes that may be mirrored; none gives `forward(batch)`.
        limit: Mirror images run together in one call as long as it holds no more patches.

    Returns:
        Mean logits (b, k, *spatial) in float32.
    """
    flips = [tuple(axis + 2 for axis in subset) for subset in mirror_combinations(axes)]
    together = max(1, limit // len(batch))
    total: Tensor | None = None
    for first in range(0, len(flips), together):
        group = flips[first : first + together]
        logits = forward(torch.cat([batch.flip(dims) for dims in group]))
        for part, dims in zip(logits.chunk(len(group)), group, strict=True):
            restored = part.flip(dims).float()
            total = restored if total is None else total.add_(restored)
    assert total is not None
    return total.div_(len(flips))
