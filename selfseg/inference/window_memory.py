"""What a network takes for one window on a CPU: counted on a smaller one, before any case."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from selfseg.inference.mirroring import mirrored_mean
from selfseg.networks.layout import CHANNELS_LAST

CONVOLUTION = torch.ops.aten.convolution.default
# oneDNN copies what its vectors of eight values do not divide.
CHANNELS_AT_ONCE = 8
# What convolutions and the allocator take besides, as measured: see docs/prediction.md.
UNSEEN_SHARE, UNSEEN_BYTES = 1.25, 24 * 2**20


def window_bytes(
    network: nn.Module, shape: Sequence[int], mirror_axes: Sequence[int], strides: Sequence[int]
) -> int:
    """Return what main memory one window takes besides the weights.

    A window that is smaller by whole numbers goes through the network in main memory; what it holds
    grows with its voxels.

    Args:
        network: Gives a tuple whose first entry is (b, k, *spatial).
        shape: Of a window: channels, *patch.
        mirror_axes: Spatial axes that are mirrored.
        strides: Of the whole network along each axis; 0 where the window cannot be smaller.
    """
    small = [
        _smaller(size, stride) if stride else size
        for size, stride in zip(shape[1:], strides, strict=True)
    ]
    layout = CHANNELS_LAST[len(small)]

    def forward(batch: Tensor) -> Tensor:
        logits: Tensor = network(batch.contiguous(memory_format=layout))[0]
        return logits

    live = LiveBytes(chain(network.parameters(), network.buffers()))
    with torch.no_grad(), live:
        logits = mirrored_mean(forward, torch.zeros(1, shape[0], *small), mirror_axes, limit=1)
        torch.empty_like(logits)  # weighted for one of several windows that hold the same
    counted = live.most * math.prod(shape[1:]) / math.prod(small)
    return int(counted * UNSEEN_SHARE + UNSEEN_BYTES)


def _smaller(size: int, stride: int) -> int:
    """Return the smallest part of a size that a network takes: two voxels at its deepest stage."""
    return next((part for part in range(2 * stride, size, stride) if size % part == 0), size)


class _Counter:
    """Counts the bytes of tensors that live at once; apart, so that torch loads no compiler.

    torch wraps what a mode itself defines in a way that imports some 70 MiB of programs.
    """

    def __init__(self, before: Iterable[Tensor]) -> None:
        super().__init__()
        self.most = 0
        self._before = {tensor.untyped_storage()._cdata for tensor in before}
        self._held: dict[int, tuple[Any, int]] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in self._before:
                    reference = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
                    self._held[storage._cdata] = reference, storage.nbytes()
        gone = [key for key, (held, _) in self._held.items() if held.expired()]
        for key in gone:
            del self._held[key]
        inside = _copied((args[0], result)) if func is CONVOLUTION else 0
        self.most = max(self.most, inside + sum(size for _, size in self._held.values()))
        return result


class LiveBytes(_Counter, TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the most bytes that tensors made while it is active hold at once, as `most`.

    Args:
        before: Tensors that were there before; they do not count.
    """


def _copied(tensors: Sequence[object]) -> int:
    """Return the bytes of tensors (b, c, *spatial) that a convolution copies."""
    return sum(
        tensor.nbytes
        for tensor in tensors
        if isinstance(tensor, Tensor) and tensor.shape[1] % CHANNELS_AT_ONCE
    )
