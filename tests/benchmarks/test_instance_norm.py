"""Instance norm with leaky ReLU on a CPU: ours against torch's own, in the memory of a step."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from selfseg.networks.norm_act import InstanceNormLeakyReLU

SHAPES = ((2, 32, 40, 56, 40), (2, 64, 20, 28, 20), (1, 8, 64, 128, 128), (4, 32, 256, 256))
ROUNDS = 9


def torchs(module: InstanceNormLeakyReLU, x: torch.Tensor) -> torch.Tensor:
    y = F.instance_norm(x, weight=module.weight, bias=module.bias, eps=module.eps)
    return F.leaky_relu(y, module.slope, inplace=True)


def seconds(run: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> tuple[float, float]:
    """Return the time of a forward pass alone, and of one with its backward pass."""
    start_s = time.perf_counter()
    with torch.inference_mode():
        run(x)
    forward_s = time.perf_counter() - start_s
    leaf = x.detach().requires_grad_()
    start_s = time.perf_counter()
    y = run(leaf)
    y.backward(torch.ones_like(y))  # type: ignore[no-untyped-call]
    return forward_s, time.perf_counter() - start_s


@pytest.mark.bench
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_faster_than_torchs_own(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    layout = torch.channels_last_3d if len(shape) == 5 else torch.channels_last
    x = torch.randn(shape).to(dtype).contiguous(memory_format=layout)
    module = InstanceNormLeakyReLU(shape[1])
    pairs = [
        (seconds(module, x), seconds(lambda y: torchs(module, y), x)) for _ in range(ROUNDS + 1)
    ]
    ours, theirs = (
        [statistics.median(pair[side][part] for pair in pairs[1:]) for part in (0, 1)]
        for side in (0, 1)
    )
    ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
    sys.stdout.write(
        f"\n{shape} {dtype}: forward {1e3 * ours[0]:.1f} against {1e3 * theirs[0]:.1f} ms, "
        f"{ratios[0]:.1f}×; with backward {1e3 * ours[1]:.1f} against {1e3 * theirs[1]:.1f} ms, "
        f"{ratios[1]:.1f}×\n"
    )
    assert min(ratios) > 1
