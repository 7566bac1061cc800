"""A small plan and a model folder with random weights, without training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from selfseg.inference.trained import weights_digest
from selfseg.networks.build import build_network
from selfseg.networks.weights import save_weights
from selfseg.records import serial
from selfseg.records.augmentation import Augmentation
from selfseg.records.dataset import Label
from selfseg.records.loss import Loss
from selfseg.records.loss_terms import DiceTerm
from selfseg.records.model import TrainedFold
from selfseg.records.network import UNet
from selfseg.records.optimization import SGD, Optimization, Poly, Recipe
from selfseg.records.plan import Budget, Configuration, Inference, Plan
from selfseg.records.preprocessing import NoNormalization, Preprocessing
from selfseg.workspace.dataset import DatasetFolder

LABELS = (Label(name="core", value=1), Label(name="rim", value=4))


def tiny_configuration(
    name: Literal["2d", "3d_fullres", "3d_lowres"] = "3d_fullres",
    *,
    channels: int = 1,
    spacing_mm: tuple[float | None, float, float] = (2.0, 1.0, 1.0),
    axes: tuple[int, int, int] = (0, 1, 2),
    patch: tuple[int, ...] | None = None,
) -> Configuration:
    """Return a configuration with a network of two stages that does nothing to intensities."""
    dims = 2 if name == "2d" else 3
    recipe = Recipe(optimizer=SGD(), schedule=Poly())
    return Configuration(
        name=name,
        preprocessing=Preprocessing(
            axes=axes, spacing_mm=spacing_mm, normalization=(NoNormalization(),) * channels
        ),
        median_shape=(8.0, 16.0, 16.0),
        patch=patch or (8, 16, 16)[3 - dims :],
        batch=2,
        memory_gib=0.1,
        network=UNet(
            features=(4, 8),
            kernels=((3,) * dims,) * 2,
            strides=((1,) * dims, (2,) * dims),
            convs_encoder=(1, 1),
            convs_decoder=(1,),
        ),
        loss=Loss(terms=(DiceTerm(),)),
        augmentation=Augmentation(mirror_axes=tuple(range(dims))),
        optimization=Optimization(recipe=recipe, short_recipe=recipe, short_below_steps=100),
        inference=Inference(mirror_axes=tuple(range(dims))),
    )


def tiny_plan(*configurations: Configuration, channels: int = 1, dataset: str = "phantom") -> Plan:
    """Return a plan with these configurations (default: one 3D)."""
    return Plan(
        planner="default",
        planner_version="1",
        dataset=dataset,
        channels=tuple(f"channel {i}" for i in range(channels)),
        labels=LABELS,
        budget=Budget(memory_gib=1.0, device="cpu"),
        configurations=configurations or (tiny_configuration(channels=channels),),
        decisions=(),
    )


def save_model(folder: Path, plan: Plan, *, folds: Sequence[str] = ("0",)) -> DatasetFolder:
    """Write plan.json and, for every configuration and fold, random weights."""
    dataset = DatasetFolder(folder)
    serial.save(plan, dataset.plan)
    for configuration in plan.configurations:
        for seed, fold in enumerate(folds):
            torch.manual_seed(seed)
            network = build_network(
                configuration.network,
                channels=plan.input_channels(configuration),
                outputs=len(plan.labels) + 1,
            )
            files = dataset.fold(configuration.name, fold)
            serial.save(trained_fold(plan, configuration, fold), files.description)
            save_weights(network.state_dict(), files.weights)
    return dataset


def trained_fold(
    plan: Plan,
    configuration: Configuration,
    fold: str,
    *,
    train: Sequence[str] = (),
    held_out: Sequence[str] = (),
    data_digest: str = "",
) -> TrainedFold:
    """Return how a fold was trained, in one step."""
    return TrainedFold(
        configuration=configuration.name,
        fold=fold,
        plan_digest=weights_digest(plan, configuration),
        dataset=plan.dataset,
        seed=0,
        epochs=1,
        steps=1,
        seconds=1.0,
        precision="float32",
        mirror_axes=configuration.augmentation.mirror_axes,
        data_digest=data_digest,
        train_cases=tuple(train),
        validation_cases=tuple(held_out),
    )
