"""Make some training steps in this process; print the peak of memory and the estimate, in MiB."""

from __future__ import annotations

import sys

import torch
from selfseg.planners.memory import estimate_gib
from trainingdata import make_configuration

from selfseg.loading.batches import Batch
from selfseg.losses.build import build_loss
from selfseg.networks import precision
from selfseg.records.dataset import Label, Targets
from selfseg.records.loss import Loss
from selfseg.records.loss_terms import CrossEntropyTerm, DiceTerm
from selfseg.records.network import UNet
from selfseg.records.optimization import AdamW, Poly, Recipe
from selfseg.training.memory_use import MemoryUse
from selfseg.training.state import create_state
from selfseg.training.step import train_step

CPU = torch.device("cpu")
STEPS, BATCH = 3, 2


def main(features: tuple[int, ...], patch: tuple[int, ...], classes: int, form: str) -> None:
    """Train a U-Net of these widths on noise, in `float32` or `bfloat16`."""
    torch.set_num_threads(1)
    bfloat16 = form == "bfloat16"
    precision.cpu_has_native_bfloat16 = lambda: bfloat16
    stages, dims = len(features), len(patch)
    network = UNet(
        features=features,
        kernels=((3,) * dims,) * stages,
        strides=((1,) * dims, *((2,) * dims,) * (stages - 1)),
        convs_encoder=(2,) * stages,
        convs_decoder=(2,) * (stages - 1),
    )
    loss = Loss(terms=(DiceTerm(), CrossEntropyTerm()))
    configuration = make_configuration(patch, batch=BATCH).model_copy(
        update={"network": network, "loss": loss}
    )
    recipe = Recipe(optimizer=AdamW(), schedule=Poly(), average_decay=0.99)
    batch = Batch(
        image=torch.randn(BATCH, 1, *patch), label=torch.randint(0, classes, (BATCH, *patch))
    )
    use = MemoryUse(CPU)
    state = create_state(configuration, recipe, channels=1, outputs=classes, seed=0, device=CPU)
    labels = tuple(Label(name=str(value), value=value) for value in range(1, classes))
    built = build_loss(loss, Targets(labels=labels))
    use.data_follows()
    use.steps_follow()
    for _ in range(STEPS):
        train_step(state, batch, built, learning_rate=1e-3, gradient_clip=12.0)
    peak = use.peak_gib()
    assert peak is not None
    estimate = estimate_gib(
        network, patch, BATCH, channels=1, classes=classes, device="cpu", bfloat16=bfloat16
    )
    sys.stdout.write(f"{1024 * peak} {1024 * estimate}\n")


if __name__ == "__main__":
    main(
        tuple(map(int, sys.argv[1].split("-"))),
        tuple(map(int, sys.argv[2].split("x"))),
        int(sys.argv[3]),
        sys.argv[4],
    )
