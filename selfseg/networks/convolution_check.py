"""A check at the start of training: are 3D convolutions in the reduced format slow here?

torch 2.9 with cuDNN before 9.15 computed them without cuDNN, several times slower and with more
memory than float32 (pytorch issues 166122 and 166643). A user of a cluster's own installation may
have such a pair, or the next one, so what counts is a measurement and not a version.
"""

from __future__ import annotations

import logging
import time

import torch
from torch.nn import functional as F

from selfseg.networks.device import wait_for

log = logging.getLogger(__name__)

CHANNELS, SIDE, BATCH = 32, 64, 2  # the first stage of a usual 3D network, on half its patch
REPEATS = 3
TOLERATED = 1.5  # the reduced format should need less time than float32, not more


def warn_of_slow_convolutions(device: torch.device, dtype: torch.dtype | None) -> None:
    """Warn if a 3D convolution takes clearly longer in `dtype` than in float32; CUDA only."""
    if device.type != "cuda" or dtype is None:
        return
    try:
        ratio = seconds_of_convolution(device, dtype) / seconds_of_convolution(device, None)
    except RuntimeError as error:  # no memory, no algorithm: training itself will say what it is
        log.debug("convolutions were not timed: %s", error)
        return
    finally:
        torch.cuda.empty_cache()
    if ratio > TOLERATED:
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        log.warning("%s", describe(ratio, dtype, torch.__version__, cudnn))


def describe(ratio: float, dtype: torch.dtype, version: str, cudnn: int | None) -> str:
    """Return the warning: what is slow, with which versions, and what to install."""
    used = "no cuDNN" if cudnn is None else f"cuDNN {_dotted(cudnn)}"
    return (
        f"3D convolutions take {ratio:.1f} times as long in {str(dtype).removeprefix('torch.')} "
        f"as in float32 with torch {version} and {used}; training will be slow. Known of torch 2.9 "
        "with cuDNN before 9.15: install torch 2.10 or newer with the cuDNN that comes with it."
    )


def seconds_of_convolution(device: torch.device, dtype: torch.dtype | None) -> float:
    """Return the time of a convolution in the faster layout, forward and backward.

    Args:
        device: Where to compute.
        dtype: Of image and weights; None is float32.
    """
    layouts = (torch.contiguous_format, torch.channels_last_3d)
    return min(_seconds(device, dtype or torch.float32, layout) for layout in layouts)


def _seconds(device: torch.device, dtype: torch.dtype, layout: torch.memory_format) -> float:
    image, weight = (
        torch.zeros(shape, device=device, dtype=dtype)
        .contiguous(memory_format=layout)
        .requires_grad_()
        for shape in ((BATCH, CHANNELS, SIDE, SIDE, SIDE), (CHANNELS, CHANNELS, 3, 3, 3))
    )
    times = []
    for _ in range(1 + REPEATS):  # the first one chooses an algorithm
        wait_for(device)
        started_s = time.perf_counter()
        F.conv3d(image, weight, padding=1).sum().backward()  # type: ignore[no-untyped-call]
        wait_for(device)
        times.append(time.perf_counter() - started_s)
    return min(times[1:])


def _dotted(version: int) -> str:
    """Return cuDNN's number as people write it: 91002 is 9.10.2, 8902 is 8.9.2."""
    major = version // (10_000 if version >= 90_000 else 1_000)
    rest = version % (10_000 if version >= 90_000 else 1_000)
    return f"{major}.{rest // 100}.{rest % 100}"
