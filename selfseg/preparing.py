"""Everything that a training reads beside the plan, made where it is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from selfseg.inference.trained import PlannedDataset, files_digest
from selfseg.records import serial
from selfseg.records.dataset import Dataset
from selfseg.records.geometry import Box
from selfseg.records.loss_maps import needed_maps
from selfseg.records.plan import Configuration
from selfseg.workspace.dataset import DatasetFolder

if TYPE_CHECKING:
    from selfseg.loading.patches import PreviousStage
    from selfseg.preprocessing.dataset import Arrays
    from selfseg.training.job import AuxiliaryData


def prepare(
    folder: DatasetFolder,
    dataset: Dataset,
    configuration: Configuration,
    *,
    planned: Sequence[Configuration],
    workers: int,
) -> Path:
    """Make the training arrays of a configuration where they are missing; return their folder."""
    from selfseg.preprocessing.dataset import preprocess

    arrays = _arrays(folder, configuration, planned)
    preprocess(dataset, [arrays], workers=workers)
    return arrays.folder


def _arrays(
    folder: DatasetFolder, configuration: Configuration, planned: Sequence[Configuration]
) -> Arrays:
    """Return what a configuration is trained on.

    All `planned` configurations whose arrays would be the same share them. Their chunks suit 2D
    patches if one of them has such, else the patch of the first: slices from chunks for volumes
    take 12 to 18 times as long, volumes from chunks for slices 1.1 to 1.7 times.
    """
    from selfseg.preprocessing.dataset import Arrays

    options = folder.spelled_out(configuration.preprocessing)
    sharing = [item for item in planned if folder.spelled_out(item.preprocessing) == options]
    patch = min((item.patch for item in sharing or [configuration]), key=len)
    return Arrays(folder.preprocessed(options), options, patch)


def prepare_all(
    folder: DatasetFolder,
    dataset: Dataset,
    configurations: Sequence[Configuration],
    *,
    workers: int,
) -> None:
    """Make the training arrays of several configurations, once for those that share them."""
    from selfseg.preprocessing.dataset import preprocess

    wanted = [_arrays(folder, item, configurations) for item in configurations]
    preprocess(dataset, wanted, workers=workers)


def prepare_previous(
    known: PlannedDataset,
    configuration: Configuration,
    maps: Mapping[str, Path] | None,
    *,
    workers: int,
) -> PreviousStage | None:
    """Bring label maps of the previous stage to a configuration's grid where that is not done."""
    if configuration.previous_stage is None or maps is None:
        return None
    from selfseg.execution.locks import waited_for
    from selfseg.loading.patches import PreviousStage
    from selfseg.preprocessing.previous import preprocess_previous

    target = known.folder.previous_stage(configuration.preprocessing, configuration.previous_stage)
    with waited_for(target.with_name(f".{target.name}.lock"), "prepares these segmentations"):
        preprocess_previous(
            maps,
            known.folder.preprocessed(configuration.preprocessing),
            target,
            options=configuration.preprocessing,
            targets=known.plan.targets,
            patch=configuration.patch,
            workers=workers,
        )
        boxes = _crops(known, configuration, tuple(maps), target, workers=workers)
    return PreviousStage(target, len(known.plan.labels), boxes)


def _crops(
    known: PlannedDataset,
    configuration: Configuration,
    cases: Sequence[str],
    previous: Path,
    *,
    workers: int,
) -> dict[str, tuple[Box, ...]] | None:
    """Return the boxes that a fine stage looks at in each case; None for other stages."""
    from selfseg.preprocessing.crops import Cropper, find_crops

    if configuration.crop is None:
        return None
    return find_crops(
        cases,
        known.folder.preprocessed(configuration.preprocessing),
        previous,
        known.folder.crops(previous),
        Cropper(configuration.crop, known.plan.targets, configuration.patch),
        workers,
    )


def prepare_auxiliary(
    known: PlannedDataset, configuration: Configuration, *, workers: int
) -> AuxiliaryData | None:
    """Make the arrays of the auxiliary data set where they are missing; None without one."""
    from selfseg.preprocessing.dataset import Arrays, preprocess
    from selfseg.training.job import AuxiliaryData

    options = known.plan.borrowed(configuration)
    if options is None:
        return None
    dataset = serial.load(Dataset, known.folder.auxiliary)
    arrays = known.folder.auxiliary_arrays(configuration.preprocessing)
    wanted = Arrays(arrays, configuration.preprocessing, configuration.patch)
    preprocess(dataset, [wanted], workers=workers)
    ids = tuple(case.id for case in dataset.cases)
    return AuxiliaryData(options, dataset.targets, ids, arrays, files_digest(dataset, ids))


def prepare_loss_maps(
    known: PlannedDataset, configuration: Configuration, *, workers: int
) -> Path | None:
    """Make what the terms of the loss need besides the labels, where that is not done."""
    from selfseg.preprocessing.loss_maps import prepare_maps

    maps = needed_maps(configuration.loss)
    if not maps:
        return None
    flat = len(configuration.patch) == 2
    target = known.folder.loss_maps(configuration.preprocessing, maps, flat=flat)
    prepare_maps(
        [case.id for case in known.dataset.cases],
        known.folder.preprocessed(configuration.preprocessing),
        target,
        maps=maps,
        targets=known.plan.targets,
        flat=flat,
        patch=configuration.patch,
        workers=workers,
    )
    return target
