"""Try post-processing on held-out cases: tune each step on all folds but one, judge it on that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from selfseg.arrays import Indices
from selfseg.execution.processes import map_parallel
from selfseg.postprocessing.apply import apply_steps
from selfseg.postprocessing.components import component_volumes_ml
from selfseg.records.dataset import Targets
from selfseg.records.postprocessing import FillHoles, LargestComponent, MinimumVolume, Step
from selfseg.records.selection import SelectionRules, StepTrial
from selfseg.selection.gate import ROUNDING, Floats, Setting, judge, score_table
from selfseg.selection.scoring import (
    HeldOut,
    Measure,
    Reference,
    Scores,
    predicted,
    read_reference,
    score_names,
)
from selfseg.selection.statistics import mean_score

FOREGROUND = "foreground"


@dataclass(frozen=True)
class _Job:
    """One case: what was accepted before, and what is tried on top, each on its own."""

    id: str
    case: HeldOut
    members: tuple[str, ...]
    targets: Targets
    measure: Measure
    steps: tuple[Step, ...]
    options: tuple[Step, ...]


@dataclass(frozen=True)
class _Tried:
    """Scores of a case without and with each option; volumes of all but the largest components."""

    base: Scores
    options: tuple[Scores, ...]
    small_ml: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Cleaning:
    """The accepted steps, all trials, and scores (cases, names) without and with the steps."""

    steps: tuple[Step, ...]
    trials: tuple[StepTrial, ...]
    before: Floats
    after: Floats


def find_steps(setting: Setting) -> Cleaning:
    """Return the steps that help on folds that they were not tuned on.

    In this order, each on top of what was accepted before: the largest component of all
    foreground; for each label or region the largest component or a minimum volume; its holes.
    Components of tubes are not removed: what a scan interrupts is still there.
    """
    targets = setting.targets
    names, rules = targets.names, setting.selector.selection_rules()
    whole = (LargestComponent(),) if len(targets.labels) > 1 and not setting.tubular else ()
    tried = _try(setting, (), whole)
    before = score_table([case.base for case in tried])
    trials = _judge(setting, tried, whole, None, "largest_component") if whole else []
    steps = _accepted(trials)
    if steps:
        tried = _try(setting, steps, ())
    options = {
        name: _component_options(name, [case.small_ml[index] for case in tried], rules)
        for index, name in enumerate(names)
        if name not in setting.tubular
    }
    trials += _try_each(setting, steps, options, "components")
    steps = _accepted(trials)
    holes: dict[str, tuple[Step, ...]] = {name: (FillHoles(name=name),) for name in names}
    trials += _try_each(setting, steps, holes, "fill_holes")
    steps = _accepted(trials)
    after = score_table([case.base for case in _try(setting, steps, ())]) if steps else before
    if mean_score(after) < mean_score(before):  # regions overlap: what helps each may hurt together
        return Cleaning((), tuple(trials), before, before)
    return Cleaning(steps, tuple(trials), before, after)


def _component_options(
    name: str, small_ml: Sequence[Sequence[float]], rules: SelectionRules
) -> tuple[Step, ...]:
    """Return what can be done about small components; nothing if no case has any.

    Volumes are those of predictions, so no reference has a part in them.
    """
    volumes = [volume for case in small_ml for volume in case]
    if not volumes:
        return ()
    limits = sorted({float(v) for v in np.quantile(volumes, rules.volume_quantiles)})
    # Rounded up, so that a component of exactly this volume goes.
    minima = [MinimumVolume(name=name, volume_ml=limit * (1 + 1e-6)) for limit in limits]
    return (LargestComponent(name=name), *minima)


def _try_each(
    setting: Setting, steps: tuple[Step, ...], options: dict[str, tuple[Step, ...]], kind: str
) -> list[StepTrial]:
    """Try the options of every label in one pass over the cases."""
    flat = tuple(step for group in options.values() for step in group)
    if not flat:
        return []
    tried = _try(setting, steps, flat)
    trials, first = [], 0
    for name, group in options.items():
        part = slice(first, first + len(group))
        first = part.stop
        if group:
            own = [_Tried(case.base, case.options[part], case.small_ml) for case in tried]
            trials += _judge(setting, own, group, name, kind)
    return trials


def _try(setting: Setting, steps: tuple[Step, ...], options: tuple[Step, ...]) -> list[_Tried]:
    jobs = [
        _Job(case.id, case, setting.members, setting.targets, setting.measure, steps, options)
        for case in setting.cases
    ]
    return map_parallel(_try_case, jobs, workers=setting.workers, label="Post-processing")


def _try_case(job: _Job) -> _Tried:
    targets, measure = job.targets, job.measure
    reference = read_reference(job.case.reference, targets)
    indices, reference = _cropped(predicted(job.case, job.members, targets), reference)
    spacing_mm = reference.spacing_mm
    indices = apply_steps(indices, job.steps, targets, spacing_mm)
    base = score_names(indices, reference, targets, measure)
    options = []
    for step in job.options:
        cleaned = apply_steps(indices, [step], targets, spacing_mm)
        only = None if targets.regions or step.name is None else targets.names.index(step.name)
        scores = base
        if not np.array_equal(cleaned, indices):
            scores = score_names(cleaned, reference, targets, measure, only=only)
            if only is not None:
                scores = (*base[:only], scores[only], *base[only + 1 :])
        options.append(scores)
    small = tuple(
        tuple(component_volumes_ml(np.isin(indices, members), spacing_mm)[1:].tolist())
        for members in targets.members
    )
    return _Tried(base, tuple(options), small)


def _cropped(indices: Indices, reference: Reference) -> tuple[Indices, Reference]:
    """Return both maps in the box where either has anything, with a margin of one voxel."""
    boxes = ndimage.find_objects(((indices > 0) | (reference.indices > 0)).view(np.uint8))
    if not boxes:
        return indices, reference
    z, y, x = (slice(max(part.start - 1, 0), part.stop + 1) for part in boxes[0])
    return indices[z, y, x], Reference(reference.indices[z, y, x], reference.spacing_mm)


def _judge(
    setting: Setting,
    tried: Sequence[_Tried],
    options: Sequence[Step],
    name: str | None,
    kind: str,
) -> list[StepTrial]:
    """Return the trial of some variants of a step; empty where the label occurs nowhere."""
    base = score_table([case.base for case in tried])
    variants = [score_table([case.options[i] for case in tried]) for i in range(len(options))]
    names = setting.targets.names
    columns = slice(None) if name is None else slice(names.index(name), names.index(name) + 1)
    folds = np.array([case.fold for case in setting.cases])
    judged = base.copy()
    for fold in np.unique(folds):
        best = _best(base, variants, folds != fold, columns)
        if best is not None:
            judged[folds == fold] = variants[best][folds == fold]
    judgement = judge(setting, base, judged, columns)
    if judgement is None:
        return []
    best = _best(base, variants, np.ones(len(folds), np.bool_), columns)
    return [
        StepTrial(
            subject=name or FOREGROUND,
            kind=kind,
            step=None if best is None else options[best],
            gain=judgement.gain,
            worst_change=judgement.worst_change,
            accepted=judgement.decision.value == "accepted" and best is not None,
            because=judgement.decision.because,
        )
    ]


def _best(
    base: Floats, variants: Sequence[Floats], rows: npt.NDArray[np.bool_], columns: slice
) -> int | None:
    """Return the variant with the highest mean on some cases; None if none is above the base."""
    means = [mean_score(variant[rows][:, columns]) for variant in variants]
    means = [value if np.isfinite(value) else -np.inf for value in means]
    if not rows.any() or not means:
        return None
    best = int(np.argmax(means))
    return best if means[best] > mean_score(base[rows][:, columns]) + ROUNDING else None


def _accepted(trials: Sequence[StepTrial]) -> tuple[Step, ...]:
    return tuple(trial.step for trial in trials if trial.accepted and trial.step is not None)
