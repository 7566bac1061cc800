"""On a device that is not the CPU: most operations with tensors of another place fail, as do reads.

Torch's meta device has shapes and no values. What mixes it with the CPU in one operation or reads a
value fails, as it would fail or wait on CUDA; so does here what copies numbers to the device in a
way that waits, where a test looks for that. What depends on CUDA itself (compiling, autocast,
streams) is not reached; tests/gpu has that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from targets import nested, plain
from torch import Tensor
from torch.overrides import TorchFunctionMode
from trainingdata import make_configuration

from selfseg.augmentation.draw import draw_sample
from selfseg.augmentation.geometry import loaded_patch
from selfseg.augmentation.gpu import apply_batch
from selfseg.inference.window_grid import Windows, make_grid, make_rounded_grid
from selfseg.loading.batches import Batch
from selfseg.losses.build import build_loss
from selfseg.losses.marginal import MarginalLoss
from selfseg.networks.training_heads import needed_heads
from selfseg.records.augmentation import Augmentation
from selfseg.records.loss import Loss, LossTerm
from selfseg.records.loss_maps import needed_maps
from selfseg.records.loss_terms import (
    AdaptiveCrossEntropyTerm,
    BinaryCrossEntropyTerm,
    BoundaryTerm,
    CbDiceTerm,
    ClDiceTerm,
    CrossEntropyTerm,
    DiceTerm,
    FocalTerm,
    GeneralizedDiceTerm,
    SegmentTerm,
    SignedDistanceTerm,
    SkeletonRecallTerm,
    SmoothnessTerm,
    TopKTerm,
    TverskyTerm,
)
from selfseg.records.network import (
    DSN3D,
    DualChannel,
    GatedEncoders,
    Network,
    ResidualUNet,
    SecondInput,
    UNet,
)
from selfseg.records.optimization import SGD, AdamW, Optimizer, Poly, Recipe
from selfseg.training.state import create_state
from selfseg.training.step import train_step

META = torch.device("meta")
TARGETS = plain(2)
PATCH, BATCH = (16, 16, 16), 2
PLAIN: tuple[LossTerm, ...] = (DiceTerm(), CrossEntropyTerm())
SIGMOID = Loss(terms=(DiceTerm(), BinaryCrossEntropyTerm()))
TERMS: tuple[LossTerm, ...] = (
    AdaptiveCrossEntropyTerm(), BoundaryTerm(), CbDiceTerm(iterations=3), ClDiceTerm(iterations=3),
    FocalTerm(), GeneralizedDiceTerm(), SegmentTerm(), SignedDistanceTerm(), SkeletonRecallTerm(),
    SmoothnessTerm(axis_weights=(1.0, 1.0, 1.0)), TopKTerm(), TverskyTerm(),
)  # fmt: skip
KERNELS, STRIDES = ((3,) * 3,) * 2, ((1,) * 3, (2,) * 3)
UNET = UNet(
    features=(4, 8), kernels=KERNELS, strides=STRIDES, convs_encoder=(1, 1), convs_decoder=(1,)
)
RESIDUAL = ResidualUNet(
    features=(4, 8), kernels=KERNELS, strides=STRIDES, blocks_encoder=(1, 1), convs_decoder=(1,)
)
NETWORKS: tuple[Network, ...] = (
    UNET,
    RESIDUAL,
    DSN3D(features=(2, 4, 6), convs=(1,) * 3),
    DualChannel(backbone=UNET, variant=GatedEncoders(channels=1)),
    DualChannel(backbone=UNET, variant=SecondInput()),
)
# Everything but noise, which draws its values on the device (a test of CUDA sees to that).
ALWAYS = Augmentation(
    rotation_p=1.0, scaling_p=1.0, noise_p=0.0, blur_p=1.0, brightness_p=1.0, contrast_p=1.0,
    low_resolution_p=1.0, gamma_inverted_p=1.0, gamma_p=1.0, hidden_p=1.0, mirror_axes=(0, 1, 2),
)  # fmt: skip


class NoCopies(TorchFunctionMode):
    """Fails where numbers are copied to the device in a way that waits for it on CUDA."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        result = func(*args, **named)
        if func is torch.tensor:
            copied = result.device == META
        elif func is Tensor.to:
            copied = args[0].device != result.device == META and not named.get("non_blocking")
        elif func is Tensor.__getitem__:
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            copied = result.device == META and any(isinstance(part, list) for part in index)
        else:
            copied = False
        assert not copied, f"{func.__name__} waits"
        return result


def step(network: Network, loss: Loss, optimizer: Optimizer) -> Tensor:
    """Make a training step on the meta device; return the loss, which has no value."""
    configuration = make_configuration(PATCH, batch=BATCH)
    configuration = configuration.model_copy(update={"network": network, "loss": loss})
    state = create_state(
        configuration,
        Recipe(optimizer=optimizer, schedule=Poly(), average_decay=0.99),
        channels=1,
        outputs=1 + len(TARGETS.labels),
        seed=0,
        device=META,
        layout=torch.channels_last_3d,
        heads=needed_heads(loss, TARGETS),
    )
    maps = len(needed_maps(loss)) * len(TARGETS.labels)
    batch = Batch(
        torch.empty(BATCH, 1, *PATCH, device=META),
        torch.empty(BATCH, *PATCH, device=META, dtype=torch.int64),
        torch.empty(BATCH, maps, *PATCH, device=META, dtype=torch.int16) if maps else None,
    )
    made = build_loss(loss, TARGETS).to(META)
    with NoCopies():
        return train_step(state, batch, made, learning_rate=0.01, gradient_clip=12.0)


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.kind)
def test_losses_stay_on_the_device_and_never_wait(term: LossTerm) -> None:
    assert step(UNET, Loss(terms=(*PLAIN, term)), SGD()).device == META


@pytest.mark.parametrize("term", [t for t in TERMS if "labels" in type(t).model_fields], ids=str)
def test_losses_of_some_labels_never_wait(term: LossTerm) -> None:
    some = term.model_copy(update={"labels": (TARGETS.names[1],)})
    assert step(UNET, Loss(terms=(*PLAIN, some)), SGD()).device == META


@pytest.mark.parametrize("regions", [False, True])
def test_marginal_losses_never_wait(regions: bool) -> None:
    targets = nested() if regions else TARGETS
    inner = build_loss(SIGMOID if regions else Loss(terms=PLAIN), targets).to(META)
    annotated = (True, *(False,) * (len(targets.names) - 1))
    outputs = (torch.empty(BATCH, targets.outputs, *PATCH, device=META),)
    labels = torch.empty(BATCH, *PATCH, device=META, dtype=torch.int64)
    with NoCopies():
        value = MarginalLoss(inner, annotated, regions=regions)(outputs, labels)
    assert value.device == META


@pytest.mark.parametrize("make", [make_grid, make_rounded_grid])
def test_only_the_first_window_copies_weights_to_the_device(make: Callable[..., Windows]) -> None:
    grid = make((20, 30, 24), PATCH, step=0.5, sigma=0.125)
    first, *others = grid.windows()
    grid.share(first, META)
    with NoCopies():
        assert all(grid.share(index, META).device == META for index in others)


@pytest.mark.parametrize("optimizer", [SGD(), AdamW()], ids=lambda item: item.kind)
@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_training_steps_stay_on_the_device_and_never_wait(
    network: Network, optimizer: Optimizer
) -> None:
    assert step(network, Loss(terms=PLAIN), optimizer).device == META


def test_augmentation_stays_on_the_device_and_never_waits() -> None:
    rng = np.random.default_rng(0)
    draws = [draw_sample(ALWAYS, channels=2, patch=PATCH, rng=rng) for _ in range(BATCH)]
    shapes = [loaded_patch(draw, PATCH) for draw in draws]
    image, label = apply_batch(
        [torch.empty(2, *shape, device=META) for shape in shapes],
        [torch.empty(*shape, device=META, dtype=torch.int16) for shape in shapes],
        draws,
        PATCH,
        device=META,
        masked=(0,),
    )
    assert (image.device, tuple(image.shape)) == (META, (BATCH, 2, *PATCH))
    assert (label.device, tuple(label.shape)) == (META, (BATCH, *PATCH))
