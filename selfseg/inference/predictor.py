"""Segment cases: reading, computing and writing overlap, and memory stays bounded."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from selfseg.errors import ImageError
from selfseg.inference.case_pipeline import IN_FLIGHT, run_pipeline
from selfseg.inference.crops import paste_crops
from selfseg.inference.ensemble import turn
from selfseg.inference.export import Export
from selfseg.inference.journal import Journal
from selfseg.inference.logit_store import LogitStore, MemoryBudget
from selfseg.inference.model import Model, load_model
from selfseg.inference.quality import QualityMeter
from selfseg.inference.sliding_window import predict_logits
from selfseg.inference.work import find_needs
from selfseg.io.images import read_image
from selfseg.preprocessing.case import PreparedCase, prepare_case
from selfseg.preprocessing.crops import Cropper
from selfseg.preprocessing.previous import read_previous
from selfseg.progress import ProgressBar
from selfseg.records.crf import DenseCrf
from selfseg.records.dataset import Case
from selfseg.records.geometry import Box, PreprocessedCase
from selfseg.records.plan import Inference
from selfseg.records.postprocessing import Step
from selfseg.records.shape_model import CaseQuality
from selfseg.words import counted

__all__ = ["Model", "PredictionReport", "load_model", "predict_cases"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictionReport:
    """What became of each case: ids of those done; ids and messages of those that failed.

    `quality` has the scores of predicted shapes, where the model has shape models. `kept` are ids
    of cases that an earlier prediction had done.
    """

    done: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]
    quality: tuple[CaseQuality, ...] = ()
    kept: tuple[str, ...] = ()


def predict_cases(  # noqa: PLR0913 (the options of the command)
    model: Model,
    cases: Sequence[Case],
    output: Path,
    *,
    tta: bool = True,
    step: float | None = None,
    max_memory_gib: float | None = None,
    probabilities: bool = False,
    workers: int = 1,
    previous: Mapping[str, Path] | None = None,
    crf: DenseCrf | None = None,
    steps: Sequence[Step] = (),
    compact: Path | None = None,
    quality: QualityMeter | None = None,
    journal: Journal | None = None,
) -> PredictionReport:
    """Segment cases and write a label map for each, in exactly its geometry.

    A case that fails is reported and the others go on. Files appear whole or not at all.

    Args:
        model: From `load_model`.
        cases: Images to segment; paths are absolute.
        output: Folder of the label maps, named `CASE` with the ending of the image.
        tta: Average over mirror images along the planned axes.
        step: Distance of windows in patches; default: as planned.
        max_memory_gib: Memory for weights, images, windows, logits and export, but not for the
            program itself (see `selfseg.inference.limit`); default: what is available.
        probabilities: Also write `CASE_probabilities.npz`.
        workers: Threads that read and preprocess; two are enough, more are not used.
        previous: In a cascade, for each case its label map of the previous stage; see
            `selfseg.inference.cascade`, which makes them.
        crf: Refines the probabilities on the image's own grid before they are decoded.
        steps: Post-processing of the label maps.
        compact: Folder that gets `CASE.b2nd`: probabilities in 8 bits, compressed, for selection.
        quality: Scores the shapes in the label maps.
        journal: Of `output`; learns what is begun and finished.
    """
    if (previous is None) != (model.configuration.previous_stage is None):
        raise ValueError("label maps of a previous stage belong to a cascade, and to it alone")
    output.mkdir(parents=True, exist_ok=True)
    options = inference_options(model, tta=tta, step=step)
    budget = divide_memory([model], cases, max_memory_gib, probabilities=probabilities)
    store = LogitStore(budget, folder=output)
    export = Export(model, output, store, probabilities, crf, tuple(steps), compact, quality)

    def prepare(case: Case) -> PreparedCase:
        export.check(case)
        if journal is not None:
            journal.begin(case)
        return read_case(model, case, None if previous is None else previous[case.id])

    def compute(_: Case, prepared: PreparedCase) -> Tensor:
        return member_logits(model, prepared, options, store)

    def write(case: Case, record: PreprocessedCase, logits: Tensor) -> None:
        export.write(case, record, logits)
        if journal is not None:  # at once: what comes next may be interrupted
            journal.finish(case, None if quality is None else quality.of(case))

    done, failed = [], []
    with ProgressBar("predicting", len(cases)) as bar:
        threads = max(1, min(workers, IN_FLIGHT))
        for outcome in run_pipeline(
            cases, prepare, compute, write, threads, overlap=budget.overlaps
        ):
            bar.advance(note=outcome.item.id)
            if outcome.problem is None:
                done.append(outcome.item.id)
            else:
                log.warning("%s: %s", outcome.item.id, outcome.problem)
                failed.append((outcome.item.id, str(outcome.problem)))
    return PredictionReport(tuple(done), tuple(failed))


def divide_memory(
    models: Sequence[Model],
    cases: Sequence[Case],
    max_memory_gib: float | None,
    *,
    probabilities: bool = False,
) -> MemoryBudget:
    """Divide the memory of a prediction between what some cases and models need."""
    weights_gib = sum(model.weights_gib for model in models)
    if max_memory_gib is None:
        return MemoryBudget(None, weights_gib)
    needs = find_needs(models, cases, probabilities=probabilities)
    work = needs.work(max(max_memory_gib - weights_gib, 0.0))
    if not work.overlaps:
        most = counted(work.windows, "window")
        log.info("Memory: one image at a time, %s in a call at most", most)
    return MemoryBudget(max_memory_gib, weights_gib, work.gib, work.windows, work.overlaps)


def member_logits(
    model: Model, prepared: PreparedCase, options: Inference, store: LogitStore
) -> Tensor:
    """Return the logits (k, Z, Y, X) of a prepared case, averaged over the model's folds.

    The model's weights lie on its device in the meantime, and no longer. A fine stage looks at
    its crops only.
    """
    crop, targets, patch = model.configuration.crop, model.plan.targets, model.configuration.patch

    def segment(box: Box | None) -> Tensor:
        inside = (slice(None), *box.slices) if box is not None else slice(None)
        return predict_logits(
            model.network,
            torch.from_numpy(prepared.image[inside]),
            patch=patch,
            options=options,
            outputs=model.outputs,
            device=model.device,
            context=model.configuration.context,
            store=store,
        )

    room = store.budget.device_weights_bytes(model.device)
    with turn(model.network, model.device, room):
        if crop is None:
            return segment(None)
        label = prepared.image[-1].astype(np.int16)
        boxes = Cropper(crop, targets, patch).boxes(label, prepared.record.spacing_mm)
        return paste_crops(
            label, boxes, segment, crop=crop, targets=targets, store=store, device=model.device
        )


def inference_options(model: Model, *, tta: bool, step: float | None) -> Inference:
    """Return the plan's options with what the user asked for in their place."""
    options = model.configuration.inference
    changes = {
        "mirror_axes": model.mirror_axes if tta else (),
        "step": options.step if step is None else step,
    }
    return options.model_copy(update=changes)


def read_case(model: Model, case: Case, previous: Path | None = None) -> PreparedCase:
    """Read and preprocess a case; `previous` is its label map of the previous stage, in a cascade.

    The label map becomes one further channel, which the network turns into one a label.

    Raises:
        ImageError: It cannot be read, has other channels than the plan, or no finite values.
    """
    paths = [Path(file.path) for file in case.images]
    image = read_image(paths)
    names, found = model.plan.channels, image.array.shape[0]
    if found != len(names):
        raise ImageError(
            f"{paths[0]}: {counted(found, 'channel')}, but the model needs {len(names)} "
            f"({', '.join(names)})",
            remedy="Give every channel, as CASE_0000, CASE_0001, … or in one file.",
        )
    if not np.isfinite(image.array).all():
        raise ImageError(
            f"{paths[0]}: contains NaN or infinite values",
            remedy="Replace them, for instance by the background value.",
        )
    is_volume = len(model.configuration.patch) == 3 and model.configuration.median_shape[0] > 1
    if image.native.is_2d and is_volume:
        raise ImageError(
            f"{paths[0]}: a 2D picture, but the model segments volumes of "
            f"{model.configuration.median_shape[0]:g} slices",
            remedy="Give a volume, or a model that was trained on pictures.",
        )
    options = model.configuration.preprocessing
    prepared = prepare_case(case.id, image, None, options)
    if previous is None:
        return prepared
    label = read_previous(previous, prepared.record, options, model.plan.targets)
    return replace(prepared, image=np.concatenate([prepared.image, label[None]], dtype=np.float32))
