"""Memory of a training step, in GiB, from the counts of its network."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from selfseg.records.network import Network

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
# The C library keeps freed arrays of up to 32 MiB for later ones, in pieces that seldom fit.
KEPT_FREE_SHARE, MOST_KEPT_FREE = 0.4, 80 * 2**20
CODE_BYTES = 4 * 2**20  # that oneDNN writes for the convolutions
GIB = 2**30


def estimate_gib(
    network: Network, patch: Sequence[int], batch: int, *, channels: int, classes: int, device: str
) -> float:
    """Return the estimated memory of a training step in GiB: float32 on CPU, bfloat16 on CUDA.

    On CUDA tensors are counted, as nnU-Net counts them; on a CPU the growth of the process.
    """
    if device != "cuda":
        return _estimate_cpu_bytes(network, patch, batch, channels, classes) / GIB
    maps = count_features(network, patch, classes)
    maps += count_extra_features(prod(patch), classes, channels)
    activations = maps * batch * BYTES_BFLOAT16 * TENSORS_PER_FEATURE_MAP
    weights = count_parameters(network, channels, classes) * BYTES_PER_PARAMETER
    return float((activations + weights) / GIB)


def _estimate_cpu_bytes(
    network: Network, patch: Sequence[int], batch: int, channels: int, classes: int
) -> float:
    """Return what a training holds beyond the program and its data, in float32."""
    voxels = prod(patch) * batch * BYTES_FLOAT32
    maps = count_features(network, patch, classes) * batch * BYTES_FLOAT32
    kept = KEPT_PER_FEATURE_MAP * maps + channels * voxels
    passing = max(
        GRADIENTS_IN_FLIGHT * network.features[0] * voxels, MAPS_PER_CLASS_CPU * classes * voxels
    )
    free = min(KEPT_FREE_SHARE * (kept + passing), MOST_KEPT_FREE)
    weights = count_parameters(network, channels, classes) * BYTES_PER_PARAMETER_CPU
    return float(kept + passing + free + weights + CODE_BYTES)
