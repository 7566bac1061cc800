"""The shape models of a fold: made once from its training cases, kept beside its weights."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from selfseg.errors import RecordError
from selfseg.loading.patches import CaseFolder
from selfseg.networks.shape_autoencoder import ShapeModel
from selfseg.networks.shape_files import load_accepted, save_tensors
from selfseg.networks.shape_grid import ShapeBox, bounds, sample_box
from selfseg.progress import ProgressBar
from selfseg.records import serial
from selfseg.records.dataset import Targets
from selfseg.records.shape_model import ShapeModelRecord, ShapeModels, ShapeOptions
from selfseg.training.job import TrainingJob
from selfseg.training.shape_fit import Shapes, fit_shape
from selfseg.workspace.network import FoldFolder

log = logging.getLogger(__name__)

SHAPES_VERSION = 1  # raise it when the same options make other models
FINER = 2  # voxels of the grid that deformed copies are cut from, for one of the cube


def prepare_shapes(job: TrainingJob) -> Mapping[str, ShapeModel]:
    """Return the accepted shape models of a fold by label, on its device; make what is missing.

    Only the labels of the training cases are read. A model that is refused is said so, with its
    number; training goes on without it.

    Raises:
        DatasetError: Cases are missing or damaged.
    """
    record = _made(job)
    if record is None:
        return {}
    for item in record.models:
        if not item.accepted:
            log.warning(
                "The shape model of %s is refused: %s. Training goes on without it.",
                item.name,
                item.because,
            )
    accepted = load_accepted(record, job.output.shape_tensors, job.device)
    return {item.name: model for item, model in accepted}


def shape_refusal(job: TrainingJob) -> str:
    """Return why no shape model of a fold can be used; '' if one can, or none is asked for.

    Makes those that are missing.

    Raises:
        DatasetError: Cases are missing or damaged.
    """
    record = _made(job)
    if record is None or any(item.accepted for item in record.models):
        return ""
    return "; ".join(f"that of {item.name} {item.because}" for item in record.models)


def read_shapes(cases: CaseFolder, name: str, targets: Targets, options: ShapeOptions) -> Shapes:
    """Return the masks of a label in those cases that have it, annotated all around it."""
    members, ignored = targets.members[targets.names.index(name)], targets.ignore_index
    used, maps, fine = [], [], []
    for index, case in enumerate(cases.ids):
        label = cases[index].label[:]
        mask = torch.from_numpy(np.isin(label, members))
        low, high = bounds(mask).tolist()
        if not mask.any():
            continue
        box = ShapeBox(tuple(map(float, low)), tuple(map(float, high))).grown(options.box_margin)
        if ignored is not None and _touches(label == ignored, box):
            continue
        used.append(case)
        maps.append(sample_box(mask[None].float(), box, options.grid))
        fine.append(sample_box(mask[None].float(), box, FINER * options.grid).half())
    empty = torch.zeros(0, 1, *(options.grid,) * 3)
    return Shapes(
        name,
        tuple(used),
        torch.stack(maps) if maps else empty,
        torch.stack(fine) if fine else empty,
    )


def _made(job: TrainingJob) -> ShapeModels | None:
    """Return what became of the shape models of a fold, made where missing; None without any."""
    names = job.plan.shape_labels(job.configuration)
    if not names:
        return None
    source = _source(job, names)
    return _stored(job.output, source) or _make(job, names, source)


def _make(job: TrainingJob, names: Sequence[str], source: str) -> ShapeModels:
    """Make, judge and write the models of some labels."""
    options, started_s = job.plan.shapes, time.perf_counter()
    budget_s = math.inf if job.time_s is None else options.time_share * job.time_s
    cases = CaseFolder(job.data, job.train_cases)
    records: list[ShapeModelRecord] = []
    models: dict[int, nn.Module] = {}
    with ProgressBar("Shape models", len(names) * options.iterations) as bar:
        for index, name in enumerate(names):
            first = index * options.iterations
            left_s = budget_s - (time.perf_counter() - started_s)
            record, model = fit_shape(
                read_shapes(cases, name, job.plan.targets, options),
                options,
                seed=job.seed,
                limit_s=max(left_s / (len(names) - index), 1e-3),
                device=job.device,
                tick=lambda done, note, first=first: bar.move_to(first + done, note=note),  # type: ignore[misc]
            )
            bar.move_to(first + options.iterations, note=name)
            records.append(record)
            if model is not None and record.accepted:
                models[index] = model
            log.info("Shape model of %s (%s): %s", name, record.kind, record.because)
    made = ShapeModels(
        source=source,
        grid=options.grid,
        box_margin=options.box_margin,
        axes=job.configuration.preprocessing.axes,
        models=tuple(records),
        seconds=round(time.perf_counter() - started_s, 1),
    )
    if models:
        save_tensors(models, job.output.shape_tensors)
    serial.save(made, job.output.shapes)
    return made


def _stored(files: FoldFolder, source: str) -> ShapeModels | None:
    """Return the record of models that were made from the same; None without."""
    try:
        record = serial.load(ShapeModels, files.shapes)
    except RecordError:
        return None
    complete = files.shape_tensors.is_file() or not any(item.accepted for item in record.models)
    return record if record.source == source and complete else None


def _source(job: TrainingJob, names: Sequence[str]) -> str:
    """Return a digest of what models depend on; a time limit is none of it."""
    content = (
        SHAPES_VERSION,
        tuple(names),
        serial.digest(job.plan.shapes.model_copy(update={"labels": ()})),
        serial.digest(job.plan.targets),
        serial.digest(job.configuration.preprocessing),
        sorted(job.train_cases),
        job.data_digest,
        job.seed,
    )
    return hashlib.sha256(repr(content).encode()).hexdigest()[:32]


def _touches(mask: np.ndarray, box: ShapeBox) -> bool:
    """Tell whether a mask has a voxel in a box."""
    inside = tuple(
        slice(max(math.floor(low), 0), math.ceil(high))
        for low, high in zip(box.lower, box.upper, strict=True)
    )
    return bool(mask[inside].any())
