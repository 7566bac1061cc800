"""What a CPU gets less of, where time is short: width in 3D, batch in 2D and 2.5D."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from selfseg.records.network import Network
from selfseg.records.plan import Decision

# Pixels of all slices that a CPU segments in one step: about a second on two cores.
CPU_PIXELS, CPU_BATCH, SMALLEST_BATCH = 2**16, 12, 2
CPU_SHARE = 2  # of the features on a CPU: one in so many


def decide_width(name: str, network: Network, device: str) -> tuple[Network, Decision]:
    """Halve the features of a 3D network on a CPU; patch and batch stay those of the full width.

    Args:
        name: Configuration, for the decision's subject.
        network: As the memory allows.
        device: `cpu` or `cuda`.
    """
    full = network.features
    halved = device == "cpu" and name.startswith("3d")
    if halved:
        network = network.model_copy(update={"features": tuple(n // CPU_SHARE for n in full)})
    decision = Decision(
        rule="width",
        subject=f"configurations.{name}.network.features",
        value=", ".join(map(str, network.features)),
        because=HALVED if halved else FULL[device],
        alternatives=(", ".join(map(str, full)),) if halved else (),
    )
    return network, decision


def decide_batch(
    name: str, batch: int, patch: Sequence[int], device: str
) -> tuple[int, tuple[str, ...]]:
    """Return the batch, and a reason where it is smaller than the memory allows.

    Args:
        name: Configuration.
        batch: As memory and data set allow.
        patch: Patch; its last two axes are the plane.
        device: `cpu` or `cuda`.
    """
    if device != "cpu" or name.startswith("3d"):
        return batch, ()
    most = max(SMALLEST_BATCH, min(CPU_BATCH, CPU_PIXELS // prod(patch[-2:])))
    if batch <= most:
        return batch, ()
    return most, (
        f"on a CPU {most} (limits {CPU_BATCH} and {CPU_PIXELS:,} pixels): many small steps "
        f"learn more in the same time than few with {batch}",
    )


HALVED = (
    "on a CPU time is short: half the features make 2.7 times as many steps in the same time; "
    "measured on hippocampus MR (40 training cases, 40 unseen, 15 minutes on two cores): mean "
    "Dice 0.879 with 16 to 128 features, 0.872 with 32 to 256"
)
FULL = {
    "cuda": "a GPU makes enough steps for the full width",
    "cpu": "a network of slices needs its width: on hippocampus MR 2D 1,600 steps with 16 "
    "to 128 features reached a mean Dice of 0.858, 816 steps with 32 to 256 reached 0.865",
}
