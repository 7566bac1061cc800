"""nnU-Net's plans and dataset description as a plan of ours, with the reason of every choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from selfseg.errors import ModelError
from selfseg.io.description import DESCRIPTION, read_channels
from selfseg.io.nnunet.network import network_options
from selfseg.io.nnunet.plans import (
    WHOLE,
    NnConfiguration,
    NnPlans,
    find_configuration,
    read_json,
)
from selfseg.io.nnunet.preparation import Orientation, orientation_of, preprocessing_options
from selfseg.io.targets import read_targets
from selfseg.records.augmentation import Augmentation
from selfseg.records.dataset import Targets
from selfseg.records.loss import Loss
from selfseg.records.loss_terms import BinaryCrossEntropyTerm, CrossEntropyTerm, DiceTerm
from selfseg.records.names import ConfigurationName
from selfseg.records.optimization import SGD, Optimization, Poly, Recipe
from selfseg.records.plan import Budget, Configuration, Decision, Inference, Plan

PLANNER, VERSION = "nnunet", "2"
NAMES: Mapping[str, ConfigurationName] = {
    "2d": "2d",
    "3d_fullres": "3d_fullres",
    "3d_lowres": "3d_lowres",
    "3d_cascade_fullres": "3d_cascade",
}
# Memory that nnU-Net's planners plan for, by name; the plans do not hold it.
MEMORY_GIB: Mapping[str, float] = {"nnUNetPlannerResEncL": 24.0, "nnUNetPlannerResEncXL": 40.0}
USUAL_MEMORY_GIB = 8.0
RULE = "nnunet_import"


@dataclass(frozen=True)
class Source:
    """One trained configuration: the plans and name of it, and what its checkpoints mirror."""

    folder: Path
    plans: NnPlans
    configuration: str
    mirror_axes: tuple[int, ...]


@dataclass(frozen=True)
class Described:
    """What a dataset.json says; equal for all configurations of a model."""

    channels: tuple[str, ...]
    targets: Targets


def read_described(folder: Path) -> Described:
    """Read the dataset.json beside the plans.

    Raises:
        ModelError: There is none, or it does not say what channels and labels are.
    """
    complaints: list[str] = []
    content = read_json(folder / DESCRIPTION)
    described = Described(read_channels(content, complaints), read_targets(content, complaints))
    if complaints:
        raise ModelError(f"{folder}: {'; '.join(complaints)}", remedy=WHOLE)
    return described


def our_name(configuration: str, *, source: str) -> ConfigurationName:
    """Return our name of one of nnU-Net's configurations.

    Raises:
        ModelError: It is one that was made by hand.
    """
    if configuration not in NAMES:
        raise ModelError(
            f"{source}: configuration {configuration!r} has no counterpart",
            remedy=f"Import one of {', '.join(NAMES)}.",
        )
    return NAMES[configuration]


def make_plan(sources: Sequence[Source], described: Described) -> Plan:
    """Return the plan of imported configurations, at least one.

    Raises:
        ModelError: A configuration cannot be expressed; the message says why.
    """
    plans = sources[0].plans
    memory = MEMORY_GIB.get(plans.experiment_planner_used, USUAL_MEMORY_GIB)
    made = [_configuration(source, described, memory) for source in sources]
    return Plan(
        planner=PLANNER,
        planner_version=VERSION,
        dataset=plans.dataset_name,
        channels=described.channels,
        labels=described.targets.labels,
        regions=described.targets.regions,
        ignore=described.targets.ignore,
        budget=Budget(memory_gib=memory, device="cuda"),
        configurations=tuple(item for item, _ in made),
        decisions=tuple(decision for _, decisions in made for decision in decisions),
    )


def _configuration(
    source: Source, described: Described, memory_gib: float
) -> tuple[Configuration, tuple[Decision, ...]]:
    place = f"{source.folder / 'plans.json'}"
    found = find_configuration(source.plans, source.configuration, source=place)
    where = f"{place}: configurations.{source.configuration}"
    name = our_name(source.configuration, source=place)
    orientation = orientation_of(source.plans, source=place)
    patch, previous = found.patch_size, found.previous_stage
    mirror_axes = tuple(axis for axis in source.mirror_axes if axis < len(patch))
    made = Configuration(
        name=name,
        preprocessing=preprocessing_options(
            source.plans, found, channels=len(described.channels), source=where
        ),
        median_shape=_median_shape(source.plans, found),
        patch=patch,
        batch=found.batch_size,
        memory_gib=memory_gib,
        network=network_options(found.architecture, source=where),
        loss=_loss(found, described.targets),
        augmentation=_augmentation(patch, mirror_axes),
        optimization=Optimization(recipe=RECIPE, short_recipe=RECIPE, short_below_steps=0),
        inference=Inference(mirror_axes=mirror_axes, window_weight="float16", precision="fine"),
        previous_stage=None if previous is None else our_name(previous, source=place),
    )
    return made, _decisions(made, source, orientation)


# As nnU-Net trains: stochastic gradient descent with a polynomial decay.
RECIPE = Recipe(optimizer=SGD(), schedule=Poly())


def _median_shape(plans: NnPlans, found: NnConfiguration) -> tuple[float, float, float]:
    """Return the median shape; a 2D configuration has no first axis of its own."""
    sizes = found.median_image_size_in_voxels
    first = plans.original_median_shape_after_transp[0]
    z, y, x = (first, *sizes) if len(sizes) == 2 else sizes
    return (float(z), float(y), float(x))


def _loss(found: NnConfiguration, targets: Targets) -> Loss:
    """Return Dice and cross-entropy, as nnU-Net trains."""
    entropy = BinaryCrossEntropyTerm() if targets.regions else CrossEntropyTerm()
    return Loss(terms=(DiceTerm(batch=found.batch_dice), entropy))


def _augmentation(patch: tuple[int, ...], mirror_axes: tuple[int, ...]) -> Augmentation:
    """Return nnU-Net's augmentation for a patch: thick slices are turned in their plane only."""
    thick = len(patch) == 3 and max(patch) / patch[0] > 3
    long = len(patch) == 2 and max(patch) / min(patch) > 1.5
    degrees = 15.0 if long else 180.0 if thick or len(patch) == 2 else 30.0
    return Augmentation(dummy_2d=thick, rotation_degrees=degrees, mirror_axes=mirror_axes)


ORIENTATIONS: Mapping[Orientation, str] = {
    "stored": "takes arrays as they are stored in the file, whichever way their axes run",
    "ras": "turns images to RAS first",
}


def _decisions(
    item: Configuration, source: Source, orientation: Orientation
) -> tuple[Decision, ...]:
    """Return what was taken over, and what is ours."""
    plans, at = source.plans, f"configurations.{item.name}"
    reader = plans.image_reader_writer
    because = {
        at: (
            f"{plans.plans_name}: {source.configuration}",
            f"taken over from the plans of {plans.experiment_planner_used or 'nnU-Net'}",
        ),
        f"{at}.preprocessing.orientation": (orientation, f"{reader} {ORIENTATIONS[orientation]}"),
        f"{at}.inference.window_weight": (
            item.inference.window_weight,
            "nnU-Net rounds its weights; at the edges of an image that changes logits",
        ),
        f"{at}.inference.precision": (
            item.inference.precision,
            "nnU-Net predicts in float32 on CPUs, in float16 on GPUs",
        ),
        f"{at}.inference.mirror_axes": (
            str(list(item.inference.mirror_axes)),
            "the axes that the checkpoints allow",
        ),
        f"{at}.optimization": ("sgd, poly", "nnU-Net's own trainer; checkpoints do not hold it"),
        f"{at}.memory_gib": (
            f"{item.memory_gib:g}",
            f"what this planner plans for; {prod(item.patch)} voxels a patch",
        ),
    }
    return tuple(
        Decision(rule=RULE, subject=subject, value=value, because=reason)
        for subject, (value, reason) in because.items()
    )
