"""A training step on a GPU, ours and nnU-Net's, at a size: what the benchmark there measures."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from tinymodel import tiny_plan, trained_fold
from torch import nn
from trainingdata import make_configuration, make_folder

from selfseg.loading import held
from selfseg.loading.batches import Batches, training_batches
from selfseg.losses.build import build_loss
from selfseg.networks.layout import CHANNELS_LAST
from selfseg.networks.weights import save_weights
from selfseg.records import serial
from selfseg.records.loss import Loss
from selfseg.records.loss_terms import CrossEntropyTerm, DiceTerm
from selfseg.records.network import Network, ResidualUNet, UNet
from selfseg.training.begin import validation_of
from selfseg.training.checkpoints import save_checkpoint
from selfseg.training.compiling import GRAPHS_RUN_S
from selfseg.training.epoch import score_epoch
from selfseg.training.job import TrainingJob, plan_course
from selfseg.training.state import TrainState, create_state
from selfseg.training.step import final_weights, train_step
from selfseg.workspace.dataset import DatasetFolder

OUTPUTS = 3  # of `tiny_plan`, background included


@dataclass(frozen=True)
class Size:
    """How large the benchmark is; the full one is nnU-Net's default 3D plan.

    `epoch` counts the steps after which validation patches are scored and a checkpoint is written.
    `setup_s` and `compile_s` are guesses of what a network takes until its first step.
    """

    patch: tuple[int, int, int] = (128, 128, 128)
    batch: int = 2
    features: tuple[int, ...] = (32, 64, 128, 256, 320, 320)
    case: tuple[int, int, int] = (192, 224, 224)
    cases: int = 4
    warm_up: int = 12
    steps: int = 40
    epoch: int = 250
    setup_s: float = 20.0
    compile_s: float = 60.0

    @property
    def strides(self) -> tuple[tuple[int, ...], ...]:
        """One halving a stage."""
        return ((1, 1, 1), *((2, 2, 2),) * (len(self.features) - 1))


TOY = Size(
    patch=(16, 16, 16), batch=2, features=(4, 8), case=(24, 24, 24), cases=2, warm_up=1, steps=2,
    epoch=10, setup_s=1.0, compile_s=1.0,
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
    """selfseg's own step, with loader, augmentation and loss; and what else training does."""

    def __init__(
        self, network: Network, size: Size, folder: Path, device: torch.device, workers: int
    ) -> None:
        data = folder / "data"
        ids = make_folder(data, cases=size.cases, shape=size.case)
        configuration = make_configuration(size.patch, batch=size.batch).model_copy(
            update={"network": network, "loss": Loss(terms=(DiceTerm(), CrossEntropyTerm()))}
        )
        self.model = DatasetFolder(folder / "model")
        self.job = TrainingJob(
            plan=tiny_plan(configuration),
            configuration=configuration,
            fold="0",
            train_cases=ids,
            validation_cases=ids,
            data=data,
            output=self.model.fold(configuration.name, "0"),
            epochs=1,
            steps_per_epoch=size.epoch,
            device=device,
        )
        self.course = plan_course(self.job)
        self.state = self._fresh_state(None)
        self.loss = build_loss(configuration.loss, self.job.plan.targets).to(device)
        self.workers = workers
        self.batches = self._stream(held_share=0.0)
        self.validation = validation_of(self.job, self.course)
        self.waited_s = 0.0

    def __call__(self) -> None:
        """Make a step."""
        before_s = self.batches.waited_s
        batch = next(self.batches)
        self.waited_s += self.batches.waited_s - before_s
        train_step(self.state, batch, self.loss, learning_rate=0.01, gradient_clip=12.0)

    def with_held_data(self) -> Ours:
        """Return the same network and steps, with all cases on the device."""
        other = copy.copy(self)
        other.batches = self._stream(held.FREE_SHARE)
        return other

    def _stream(self, held_share: float) -> Batches:
        """Return batches that workers load, or of cases on the device if they fit in a share."""
        with mock.patch.object(held, "FREE_SHARE", held_share):
            return training_batches(
                self.job.configuration,
                self.job.data,
                self.job.train_cases,
                steps=range(2**30),
                seed=0,
                workers=self.workers,
                device=self.job.device,
            )

    def _fresh_state(self, layout: torch.memory_format | None) -> TrainState:
        """Return what a run of ten minutes begins with: long enough to try CUDA graphs."""
        return create_state(
            self.job.configuration,
            self.course.recipe,
            channels=self.job.channels,
            outputs=self.job.outputs,
            seed=0,
            device=self.job.device,
            layout=layout,
            run_s=lambda _: GRAPHS_RUN_S,
        )

    @property
    def layout(self) -> str:
        """Name of the memory format of images and weights."""
        return str(self.state.layout).removeprefix("torch.")

    def in_other_layout(self) -> Ours:
        """Return a fresh network in the memory format that was not chosen, on the same batches.

        On a CUDA device this one is compiled anew at its next step.
        """
        planar, other = torch.contiguous_format, copy.copy(self)
        is_planar = self.state.layout == planar
        other.state = self._fresh_state(CHANNELS_LAST[3] if is_planar else planar)
        return other

    def score(self) -> None:
        """Score the validation patches of an epoch; the first time they are loaded."""
        score_epoch(self.state, self.validation, self.loss, self.job.plan.targets)

    def keep(self) -> None:
        """Write a checkpoint."""
        save_checkpoint(self.state, self.job, self.course)

    def finish(self) -> Path:
        """Write the model as training does at its end; return its folder."""
        plan, files = self.job.plan, self.job.output
        serial.save(plan, self.model.plan)
        fold = trained_fold(plan, self.job.configuration, self.job.fold)
        serial.save(fold, files.description)
        save_weights(final_weights(self.state), files.weights)
        return self.model.path


class Theirs:
    """A step of nnU-Net's network and loss, with data on the device.

    Compiled are the network and the Dice, as its trainer (2.8.1) does on CUDA devices.
    """

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
        if compiled:
            loss.dc = torch.compile(loss.dc)
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
