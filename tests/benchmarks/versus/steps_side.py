"""Training steps a second of the same network, batch and patch, with data at hand."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from versus.measure import Reported, report

LABELS = 3  # with background
CPU = torch.device("cpu")
AIM_S, FEWEST = 30.0, 3  # of timed steps


@dataclass(frozen=True)
class Setting:
    """A network as both sides' planners make it: kernels of 3, two convolutions a stage."""

    patch: tuple[int, int, int]
    batch: int
    features: tuple[int, ...]


SETTINGS = {
    "hippocampus": Setting((40, 56, 40), 2, (32, 64, 128, 256)),
    "cube96": Setting((96, 96, 96), 2, (32, 64, 128, 256, 320)),
}


def selfseg_step(setting: Setting) -> tuple[Callable[[], object], int]:
    """Return what makes a step, and the number of weights."""
    from trainingdata import make_configuration

    from selfseg.loading.batches import Batch
    from selfseg.losses.build import build_loss
    from selfseg.records.dataset import Label, Targets
    from selfseg.records.loss import Loss
    from selfseg.records.loss_terms import CrossEntropyTerm, DiceTerm
    from selfseg.records.network import UNet
    from selfseg.records.optimization import SGD, Poly, Recipe
    from selfseg.training.state import create_state
    from selfseg.training.step import train_step

    stages = len(setting.features)
    network = UNet(
        features=setting.features,
        kernels=((3, 3, 3),) * stages,
        strides=((1, 1, 1), *((2, 2, 2),) * (stages - 1)),
        convs_encoder=(2,) * stages,
        convs_decoder=(2,) * (stages - 1),
    )
    configuration = make_configuration(setting.patch, batch=setting.batch).model_copy(
        update={"network": network, "loss": Loss(terms=(DiceTerm(), CrossEntropyTerm()))}
    )
    recipe = Recipe(optimizer=SGD(), schedule=Poly())
    state = create_state(configuration, recipe, channels=1, outputs=LABELS, seed=0, device=CPU)
    labels = tuple(Label(name=str(value), value=value) for value in range(1, LABELS))
    loss = build_loss(configuration.loss, Targets(labels=labels))
    image, label = _data(setting)
    batch = Batch(image=image, label=label)
    return (
        lambda: train_step(state, batch, loss, learning_rate=0.01, gradient_clip=12.0),
        sum(weight.numel() for weight in state.network.parameters()),
    )


def nnunet_step(setting: Setting) -> tuple[Callable[[], object], int]:
    """Return what makes a step of nnU-Net's network and loss, and the number of weights.

    On a CPU nnU-Net neither compiles nor uses a reduced format.
    """
    from dynamic_network_architectures.architectures.unet import PlainConvUNet
    from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
    from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

    stages = len(setting.features)
    network = PlainConvUNet(
        input_channels=1,
        num_classes=LABELS,
        n_stages=stages,
        features_per_stage=list(setting.features),
        conv_op=torch.nn.Conv3d,
        kernel_sizes=[[3, 3, 3]] * stages,
        strides=[[1, 1, 1], *[[2, 2, 2]] * (stages - 1)],
        n_conv_per_stage=[2] * stages,
        n_conv_per_stage_decoder=[2] * (stages - 1),
        conv_bias=True,
        norm_op=torch.nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=torch.nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=True,
    )
    weights = np.array([1 / 2**i for i in range(stages - 1)])
    weights[-1] = 0
    loss = DeepSupervisionWrapper(
        DC_and_CE_loss(
            {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False},
            {},
            dice_class=MemoryEfficientSoftDiceLoss,
        ),
        weights / weights.sum(),
    )
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.01, momentum=0.99, nesterov=True, weight_decay=3e-5
    )
    image, label = _data(setting)
    targets = [label[:, None, :: 2**i, :: 2**i, :: 2**i].float() for i in range(stages - 1)]

    def step() -> object:
        optimizer.zero_grad(set_to_none=True)
        value = loss(network(image), targets)
        value.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12)
        optimizer.step()
        return value.detach().numpy()

    return step, sum(weight.numel() for weight in network.parameters())


def _data(setting: Setting) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    size = (setting.batch, *setting.patch)
    return torch.randn(setting.batch, 1, *setting.patch), torch.randint(0, LABELS, size)


def main(side: str, name: str) -> None:
    """Measure one side: the median step, as steps a second."""
    torch.set_num_threads(2)
    make = selfseg_step if side == "selfseg" else nnunet_step
    step, weights = make(SETTINGS[name])
    step()
    times: list[float] = []
    while len(times) < FEWEST or sum(times) < AIM_S:
        began_s = time.perf_counter()
        step()
        times.append(time.perf_counter() - began_s)
    report(Reported(figure=1 / statistics.median(times), check=f"{weights} weights"))


if __name__ == "__main__":
    main(*sys.argv[1:])
