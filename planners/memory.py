"""Memory of a training step, in GiB, from the counts of its network."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod

from selfseg.records.network import Network
from selfseg.records.plan import Budget

from .counts import count_extra_features, count_features, count_parameters

# A training step keeps, for each convolution output, the output itself and its activation, and
# needs about a tenth more for gradients in flight.
TENSORS_PER_FEATURE_MAP = 2.2
BYTES_FLOAT32, BYTES_BFLOAT16 = 4, 2
BYTES_PER_PARAMETER = 16  # weight, gradient, two optimizer moments in float32
# On a CPU what a process holds was measured term by term (docs/training.md). Normalization and
# activation are one step there, which keeps what it was given and what it gave.
KEPT_PER_FEATURE_MAP = 2
BYTES_PER_PARAMETER_CPU = 20  # and the running average of the weights
# The backward pass of a layer at full resolution: gradient of its output, of what was normalized,
# the sum of both in the making, and what goes on to the layer before.
GRADIENTS_IN_FLIGHT = 4
# The loss: probabilities, their logarithm, the reference as channels, and the gradient.
MAPS_PER_CLASS_CPU = 4
CODE_BYTES = 4 * 2**20  # that oneDNN writes for the convolutions; in a reduced format once more
GIB = 2**30


def estimate_gib(
    network: Network,
    patch: Sequence[int],
    batch: int,
    *,
    channels: int,
    classes: int,
    device: str,
    bfloat16: bool = False,
) -> float:
    """Return the estimated memory of a training step in GiB.

    On CUDA tensors are counted, as nnU-Net counts them; on a CPU the growth of the process.

    Args:
        network: Options.
        patch: Voxels per axis.
        batch: Patches per step.
        channels: Of the images.
        classes: Labels including background.
        device: `cpu` or `cuda`.
        bfloat16: Of a CPU that multiplies in it; else float32. On CUDA it is always bfloat16.
    """
    if device != "cuda":
        size = BYTES_BFLOAT16 if bfloat16 else BYTES_FLOAT32
        return _estimate_cpu_bytes(network, patch, batch, channels, classes, size) / GIB
    maps = count_features(network, patch, classes)
    maps += count_extra_features(prod(patch), classes, channels)
    activations = maps * batch * BYTES_BFLOAT16 * TENSORS_PER_FEATURE_MAP
    weights = count_parameters(network, channels, classes) * BYTES_PER_PARAMETER
    return float((activations + weights) / GIB)


def both_estimates(
    network: Network,
    patch: Sequence[int],
    batch: int,
    *,
    channels: int,
    classes: int,
    budget: Budget,
) -> tuple[float, float | None]:
    """Return what a plan says of a step, in GiB: its estimate, and that of a CPU in bfloat16."""
    device = budget.device
    return budget.estimates(
        partial(
            estimate_gib, network, patch, batch, channels=channels, classes=classes, device=device
        )
    )


def _estimate_cpu_bytes(
    network: Network, patch: Sequence[int], batch: int, channels: int, classes: int, size: int
) -> float:
    """Return what a training holds beyond the program and its data, with maps of `size` bytes."""
    voxels = prod(patch) * batch
    maps = count_features(network, patch, classes) * batch
    # Images, weights and loss are float32 everywhere; a reduced format has copies beside them.
    reduced = size != BYTES_FLOAT32
    copies = size if reduced else 0
    kept = KEPT_PER_FEATURE_MAP * maps * size + channels * voxels * (BYTES_FLOAT32 + copies)
    passing = max(
        GRADIENTS_IN_FLIGHT * network.features[0] * voxels * size,
        (MAPS_PER_CLASS_CPU + reduced) * classes * voxels * BYTES_FLOAT32,
    )
    weights = count_parameters(network, channels, classes) * (BYTES_PER_PARAMETER_CPU + copies)
    return float(kept + passing + weights + CODE_BYTES * (1 + reduced))
