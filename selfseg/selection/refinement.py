"""Try a dense CRF on held-out cases: tuned on thinned-out boxes, judged on whole images."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from selfseg.arrays import bounding_box
from selfseg.errors import RecordError
from selfseg.execution.processes import map_parallel
from selfseg.execution.resources import free_memory_gib
from selfseg.inference.decode import decode
from selfseg.inference.probability_sum import STORED_CERTAIN
from selfseg.inference.refinement import Place, field_labels, refined_place
from selfseg.io.store import save_slabs
from selfseg.postprocessing.crf import CRF_VERSION, Method, fitting_method, refine_foreground
from selfseg.postprocessing.crf_tuning import tune_folds
from selfseg.records import serial
from selfseg.records.crf import CrfGrid, DenseCrf
from selfseg.records.preprocessing import Preprocessing
from selfseg.records.selection import CrfTrial
from selfseg.selection.fields import Field
from selfseg.selection.gate import Floats, Setting, judge, score_table
from selfseg.selection.scoring import (
    Measure,
    Scores,
    predicted,
    read_reference,
    score_names,
)
from selfseg.selection.statistics import mean_score

Values = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

REFINED = "refined"  # member and folder of the refined probabilities
MEMORY_SHARE = 0.5  # of what is free, for the fields of all processes
NOWHERE: Place = (slice(0, 0), slice(0, 0), slice(0, 0))


class TuningCache(serial.Record):
    """Tuned options, on all cases and on all folds but one; valid for the same key."""

    key: str
    options: DenseCrf | None
    folds: dict[str, DenseCrf | None]


@dataclass(frozen=True)
class Refinement:
    """What trying a CRF gave.

    Attributes:
        options: Accepted; None: nothing was.
        trial: None: none could be tried, as the notes say.
        setting: What post-processing is tried on: refined probabilities if they were accepted.
        notes: What a reader should know.
    """

    options: DenseCrf | None
    trial: CrfTrial | None
    setting: Setting
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Job:
    """A case, what it is refined with, and where refined probabilities go."""

    id: str
    field: Field
    options: DenseCrf | None
    method: Method
    measure: Measure
    path: Path | None


def try_crf(
    setting: Setting, grid: CrfGrid, preprocessing: Preprocessing, cache: Path
) -> Refinement:
    """Tune a CRF on the mean probabilities of some members; take it if it passes the gate.

    Args:
        setting: Cases and members that were chosen, and the rules.
        grid: What is tuned over.
        preprocessing: How images are normalized.
        cache: Folder of tuned options and refined probabilities (`refined/CASE.b2nd`).
    """
    fields = [
        Field(case, setting.members, setting.targets, preprocessing, grid.most_voxels)
        for case in setting.cases
    ]
    voxels = max(map_parallel(_voxels, fields, workers=setting.workers, label="Measuring"))
    labels, channels = field_labels(setting.targets), len(preprocessing.normalization)
    room = free_memory_gib() * 2**30 * MEMORY_SHARE
    method, needed = fitting_method(voxels, labels, channels, room)
    if method is None:
        note = f"a dense CRF was not tried: it needs {needed / 2**30:.2g} GiB for the largest case"
        return Refinement(None, None, setting, (note,))
    workers = max(1, min(setting.workers, int(room // max(needed, 1.0))))
    tuned = _tuned(fields, grid, method, workers, cache / "tuning.json")
    judged = [
        _Job(field.id, field, tuned.folds[field.fold], method, setting.measure, None)
        for field in fields
    ]
    before, after = _score(judged, workers)
    judgement = judge(setting, before, after, slice(None))
    if judgement is None:
        return Refinement(None, None, setting, ("a dense CRF was not tried: nothing to score",))
    because = judgement.decision.because
    if tuned.options is None:
        because += "; on all cases, no combination that was tried is better than no CRF"
    trial = CrfTrial(
        options=tuned.options,
        folds=tuned.folds,
        gain=judgement.gain,
        worst_change=judgement.worst_change,
        accepted=False,
        because=because,
    )
    if tuned.options is None or judgement.decision.value != "accepted":
        return Refinement(None, trial, setting)
    folder = cache / REFINED
    folder.mkdir(parents=True, exist_ok=True)
    paths = {field.id: folder / f"{field.id}.b2nd" for field in fields}
    final = [replace(job, options=tuned.options, path=paths[job.id]) for job in judged]
    _, whole = _score(final, workers)
    if mean_score(whole) <= mean_score(before):
        because = (
            f"tuned on all cases it scores {mean_score(whole):.4f} on them, without it they score "
            f"{mean_score(before):.4f}; options of the folds: {because}"
        )
        return Refinement(None, trial.model_copy(update={"because": because}), setting)
    cases = tuple(
        replace(case, probabilities={REFINED: (paths[case.id], "")}) for case in setting.cases
    )
    accepted = trial.model_copy(update={"accepted": True})
    return Refinement(tuned.options, accepted, replace(setting, cases=cases, members=(REFINED,)))


def _voxels(field: Field) -> int:
    """Return how many voxels of a case are refined, at most."""
    reference = read_reference(field.case.reference, field.targets)
    indices = predicted(field.case, field.members, field.targets)
    place = refined_place(indices, reference.spacing_mm, bounding_box(np.ones_like(indices, bool)))
    return 0 if place is None else math.prod(part.stop - part.start for part in place)


def _tuned(
    fields: Sequence[Field], grid: CrfGrid, method: Method, workers: int, path: Path
) -> TuningCache:
    """Return tuned options; those that were found before if nothing has changed."""
    key = _key(fields, grid, method)
    if path.is_file():
        try:
            known = serial.load(TuningCache, path)
        except RecordError:
            known = None
        if known is not None and known.key == key:
            return known
    tuning = tune_folds(fields, grid, method=method, workers=workers)
    folds = {choice.fold: choice.options for choice in tuning.folds}
    made = TuningCache(key=key, options=tuning.options, folds=folds)
    serial.save(made, path)
    return made


def _key(fields: Sequence[Field], grid: CrfGrid, method: Method) -> str:
    """Return a digest of all that tuned options depend on."""
    content = []
    for field in fields:
        file = field.case.reference.stat()
        digests = [field.case.probabilities[name][1] for name in field.members]
        content.append((field.id, field.fold, file.st_size, file.st_mtime_ns, digests))
    first = fields[0]
    parts = (CRF_VERSION, content, first.members, first.targets, first.preprocessing, grid, method)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _score(jobs: Sequence[_Job], workers: int) -> tuple[Floats, Floats]:
    """Return scores (cases, names) without and with the CRF."""
    found = map_parallel(_score_case, jobs, workers=workers, label="Dense CRF, whole images")
    return score_table([base for base, _ in found]), score_table([after for _, after in found])


def _score_case(job: _Job) -> tuple[Scores, Scores]:
    field, targets = job.field, job.field.targets
    reference = read_reference(field.case.reference, targets)
    indices = predicted(field.case, field.members, targets)
    base = score_names(indices, reference, targets, job.measure)
    found = None if job.options is None else field.parts(indices, reference)
    place, values = NOWHERE, np.zeros((len(targets.names), 0, 0, 0), np.float32)
    after = base
    if found is not None and job.options is not None:
        place, foreground, image = found
        values = refine_foreground(
            foreground, image, reference.spacing_mm, job.options,
            exclusive=not targets.regions, method=job.method,
        ).numpy()  # fmt: skip
        changed = np.zeros_like(indices)
        changed[place] = decode([values], targets, full=1.0)
        after = score_names(changed, reference, targets, job.measure)
    if job.path is not None:
        _save(values, place, indices.shape, job.path)
    return base, after


def _save(values: Values, place: Place, shape: Sequence[int], path: Path) -> None:
    """Store probabilities (c, z, y, x) of a box as those of a whole image, zero elsewhere."""

    @lru_cache(maxsize=1)
    def whole(channel: int) -> Bytes:
        result = np.zeros(tuple(shape), np.uint8)
        result[place] = np.round(values[channel] * STORED_CERTAIN)
        return result

    save_slabs(lambda channel, z, y: whole(channel)[z, y], (len(values), *shape), path)
