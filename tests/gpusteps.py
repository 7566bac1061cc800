"""A training step on a GPU, ours and nnU-Net's, at a size: what the benchmark there measures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from trainingdata import make_configuration, make_folder

from selfseg.loading.batches import training_batches
from selfseg.losses.build import build_loss
from selfseg.records.dataset import Label, Targets
from selfseg.records.loss import Loss
from selfseg.records.loss_terms import CrossEntropyTerm, DiceTerm
from selfseg.records.network import Network, ResidualUNet, UNet
from selfseg.records.optimization import SGD, Poly, Recipe
from selfseg.training.state import create_state
from selfseg.training.step import train_step

OUTPUTS = 3


@dataclass(frozen=True)
class Size:
    """How large the benchmark is; the full one is nnU-Net's default 3D plan.

    `setup_s` and `compile_s` are guesses of what a network takes until its first step.
    """

    patch: tuple[int, int, int] = (128, 128, 128)
    batch: int = 2
    features: tuple[int, ...] = (32, 64, 128, 256, 320, 320)
    case: tuple[int, int, int] = (192, 224, 224)
    cases: int = 4
    warm_up: int = 12
    steps: int = 40
    setup_s: float = 20.0
    compile_s: float = 60.0

    @property
    def strides(self) -> tuple[tuple[int, ...], ...]:
        """One halving a stage."""
        return ((1, 1, 1), *((2, 2, 2),) * (len(self.features) - 1))


TOY = Size(
    patch=(16, 16, 16), batch=2, features=(4, 8), case=(24, 24, 24), cases=2, warm_up=1, steps=2,
    setup_s=1.0, compile_s=1.0,
)  # fmt: skip


def networks(size: Size) -> dict[str, Network]:
    """Return the plain network and the one with the blocks of ResEnc-L."""
    stages = len(size.features)
    kernels = ((3, 3, 3),) * stages
    return {
        "plain": UNet(
            features=size.features,
            kernels=kernels,
            strides=size.strides,
            convs_encoder=(2,) * stages,
            convs_decoder=(2,) * (stages - 1),
        ),
        "ResEnc-L": ResidualUNet(
            features=size.features,
            kernels=kernels,
            strides=size.strides,
            blocks_encoder=(1, 3, 4, 6, 6, 6)[:stages],
            convs_decoder=(1,) * (stages - 1),
        ),
    }


class Ours:
    """selfseg's own step, with loader, augmentation and loss."""

    def __init__(
        self, network: Network, size: Size, folder: Path, device: torch.device, workers: int
    ) -> None:
        ids = make_folder(folder, cases=size.cases, shape=size.case)
        configuration = make_configuration(size.patch, batch=size.batch).model_copy(
            update={"network": network, "loss": Loss(terms=(DiceTerm(), CrossEntropyTerm()))}
        )
        recipe = Recipe(optimizer=SGD(), schedule=Poly())
        self.state = create_state(
            configuration, recipe, channels=1, outputs=OUTPUTS, seed=0, device=device
        )
        labels = tuple(Label(name=str(value), value=value) for value in range(1, OUTPUTS))
        self.loss = build_loss(configuration.loss, Targets(labels=labels)).to(device)
        self.batches = training_batches(
            configuration,
            folder,
            ids,
            steps=range(2**30),
            seed=0,
            workers=workers,
            device=device,
        )
        self.waited_s = 0.0

    def __call__(self) -> None:
        """Make a step."""
        before_s = self.batches.waited_s
        batch = next(self.batches)
        self.waited_s += self.batches.waited_s - before_s
        train_step(self.state, batch, self.loss, learning_rate=0.01, gradient_clip=12.0)


class Theirs:
    """A step of nnU-Net's network and loss, with data on the device."""

    def __init__(self, kind: str, size: Size, device: torch.device, *, compiled: bool) -> None:
        from dynamic_network_architectures.architectures import unet
        from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
        from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
        from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

        stages = len(size.features)
        depth = (
            {"n_conv_per_stage": [2] * stages, "n_conv_per_stage_decoder": [2] * (stages - 1)}
            if kind == "plain"
            else {
                "n_blocks_per_stage": [1, 3, 4, 6, 6, 6][:stages],
                "n_conv_per_stage_decoder": [1] * (stages - 1),
            }
        )
        build = unet.PlainConvUNet if kind == "plain" else unet.ResidualEncoderUNet
        network = build(
            input_channels=1,
            num_classes=OUTPUTS,
            n_stages=stages,
            features_per_stage=list(size.features),
            conv_op=nn.Conv3d,
            kernel_sizes=[[3, 3, 3]] * stages,
            strides=[list(stride) for stride in size.strides],
            conv_bias=True,
            norm_op=nn.InstanceNorm3d,
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
            deep_supervision=True,
            **depth,
        ).to(device)
        self.parameters = list(network.parameters())
        self.network = torch.compile(network) if compiled else network
        weights = np.array([1 / 2**i for i in range(stages - 1)])
        weights[-1] = 0 if stages > 2 else 1
        options = {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}
        loss = DC_and_CE_loss(options, {}, dice_class=MemoryEfficientSoftDiceLoss)
        self.loss = DeepSupervisionWrapper(loss, weights / weights.sum())
        self.optimizer = torch.optim.SGD(
            self.parameters, lr=0.01, momentum=0.99, nesterov=True, weight_decay=3e-5
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
        self.device = device
        self.image = torch.randn(size.batch, 1, *size.patch, device=device)
        label = torch.randint(0, OUTPUTS, (size.batch, 1, *size.patch), device=device).float()
        self.targets = [label[:, :, :: 2**i, :: 2**i, :: 2**i] for i in range(stages - 1)]

    def __call__(self) -> None:
        """Make a step."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, enabled=self.device.type == "cuda"):
            value = self.loss(self.network(self.image), self.targets)
        self.scaler.scale(value).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.parameters, 12)
        self.scaler.step(self.optimizer)
        self.scaler.update()
