"""Choose the best configuration or ensemble, then its post-processing, on held-out cases."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from selfseg.errors import ModelError, RecordError
from selfseg.execution.locks import waited_for
from selfseg.execution.processes import map_parallel
from selfseg.planning import Selector
from selfseg.records import serial
from selfseg.records.crf import CrfGrid
from selfseg.records.dataset import Targets
from selfseg.records.estimate import Estimate
from selfseg.records.names import ConfigurationName
from selfseg.records.plan import Decision
from selfseg.records.preprocessing import Preprocessing
from selfseg.records.selection import CandidateScore, CrfTrial, Selection, StepTrial
from selfseg.selection.candidates import Comparison
from selfseg.selection.gate import Setting
from selfseg.selection.refinement import REFINED, Refinement, try_crf
from selfseg.selection.scoring import (
    HeldOut,
    Measure,
    Scores,
    predicted,
    read_reference,
    score_names,
)
from selfseg.selection.statistics import difference, draw_weights, estimate, mean_score
from selfseg.selection.trials import Cleaning, find_steps

Floats = npt.NDArray[np.float64]


class CaseCache(serial.Record):
    """Scores of one case by candidate; valid for the same predictions, reference and measure."""

    key: str
    scores: dict[str, tuple[float | None, ...]]


@dataclass(frozen=True)
class _Job:
    """One case and what is to be scored on it."""

    id: str
    case: HeldOut
    candidates: tuple[tuple[ConfigurationName, ...], ...]
    targets: Targets
    measure: Measure
    cache: Path


def select(  # noqa: PLR0913 (what the plan says, what the user asks for)
    comparison: Comparison,
    targets: Targets,
    *,
    tubular: tuple[str, ...] = (),
    measure: Measure,
    selector: Selector,
    cache: Path,
    workers: int,
    crf: CrfGrid | None = None,
) -> Selection:
    """Score every configuration and ensemble on its held-out cases, choose, clean, explain.

    Args:
        comparison: From `compare`.
        targets: What is segmented.
        tubular: Labels whose small components stay.
        measure: What is compared.
        selector: Rules of the choice.
        cache: Folder of scores that were measured before an interruption. Another process that
            uses it is waited for.
        workers: Parallel processes; each holds a few label maps of one case.
        crf: What a dense CRF is tuned over, as the plan says; None: none is tried.

    Raises:
        ModelError: No held-out case has any of the labels.
    """
    by_name = {item.name: item for item in comparison.trained}
    refinement = cleaning = None
    with waited_for(cache.with_name(f".{cache.name}.lock"), "selects models"):
        candidates = _score_candidates(comparison, targets, measure, selector, cache, workers)
        decision = selector.choose_candidate(candidates)
        chosen = next(item for item in candidates if item.name == decision.value)
        notes = list(comparison.notes)
        if len(comparison.folds) < selector.selection_rules().fewest_folds:
            notes.append("post-processing needs two folds, to tune on one and judge on the other")
        else:
            setting = Setting(
                comparison.cases, chosen.members, targets, measure, selector, workers, tubular
            )
            preprocessing = by_name[chosen.members[0]].configuration.preprocessing
            refinement, cleaning = _try_changes(setting, crf, preprocessing, cache / "crf")
    crf_trial = refinement.trial if refinement else None
    trials = cleaning.trials if cleaning else ()
    return Selection(
        dataset=comparison.dataset,
        metric=measure.metric,
        tolerance_mm=measure.tolerance_mm,
        folds=comparison.folds,
        members=tuple(by_name[name].member for name in chosen.members),
        crf=refinement.options if refinement else None,
        postprocessing=cleaning.steps if cleaning else (),
        score=chosen.score,
        score_postprocessed=_cleaned_score(chosen, cleaning, comparison, selector),
        candidates=tuple(candidates),
        crf_trial=crf_trial,
        trials=trials,
        decisions=(decision, *_crf_decisions(crf_trial), *_step_decisions(trials)),
        notes=(*notes, *(refinement.notes if refinement else ())),
    )


def _try_changes(
    setting: Setting, crf: CrfGrid | None, preprocessing: Preprocessing, cache: Path
) -> tuple[Refinement | None, Cleaning]:
    """Try a CRF where there is a grid for it, then steps on top of what it gave."""
    try:
        refinement = None if crf is None else try_crf(setting, crf, preprocessing, cache)
        return refinement, find_steps(setting if refinement is None else refinement.setting)
    finally:
        shutil.rmtree(cache / REFINED, ignore_errors=True)


def _crf_decisions(trial: CrfTrial | None) -> list[Decision]:
    return [] if trial is None else [_decided("foreground.dense_crf", trial)]


def _step_decisions(trials: Sequence[StepTrial]) -> list[Decision]:
    return [_decided(f"{trial.subject}.{trial.kind}", trial) for trial in trials]


def _decided(subject: str, trial: CrfTrial | StepTrial) -> Decision:
    return Decision(
        rule="selection.accept_step",
        subject=f"postprocessing.{subject}",
        value="accepted" if trial.accepted else "rejected",
        because=trial.because,
    )


def _score_candidates(
    comparison: Comparison,
    targets: Targets,
    measure: Measure,
    selector: Selector,
    cache: Path,
    workers: int,
) -> list[CandidateScore]:
    """Return all candidates with their scores, the best first."""
    rules = selector.selection_rules()
    groups = tuple(comparison.combinations(rules.sizes))
    jobs = [_Job(case.id, case, groups, targets, measure, cache) for case in comparison.cases]
    found = map_parallel(_score_case, jobs, workers=workers, label="Scoring candidates")
    scores = np.array(
        [[[np.nan if v is None else v for v in row] for row in case] for case in found], np.float64
    ).transpose(1, 0, 2)  # (candidates, cases, names)
    means = np.array([mean_score(table) for table in scores])
    if not np.isfinite(means).all():
        raise ModelError(
            "no held-out case has any of the labels, neither annotated nor predicted",
            remedy="Train longer, or check the references.",
        )
    weights = draw_weights([case.group for case in comparison.cases], rules.replicates, rules.seed)
    top = scores[int(np.argmax(means))]
    result = [
        CandidateScore(
            members=members,
            score=estimate(table, weights, rules.confidence),
            difference=difference(table, top, weights, rules.confidence),
            cost=sum(comparison.costs[name] for name in members),
            labels={
                name: _known(mean_score(table[:, [i]])) for i, name in enumerate(targets.names)
            },
            cases={
                case.id: _known(mean_score(row[None]))
                for case, row in zip(comparison.cases, table, strict=True)
            },
        )
        for members, table in zip(groups, scores, strict=True)
    ]
    return sorted(result, key=lambda item: (-item.score.value, len(item.members), item.cost))


def _score_case(job: _Job) -> tuple[Scores, ...]:
    """Return the scores of every candidate on one case; known ones are read."""
    path = job.cache / f"{job.case.id}.json"
    key = _key(job)
    known = _read_cache(path, key)
    missing = [members for members in job.candidates if " + ".join(members) not in known]
    if missing:
        reference = read_reference(job.case.reference, job.targets)
        for members in missing:
            indices = predicted(job.case, members, job.targets)
            scores = score_names(indices, reference, job.targets, job.measure)
            known[" + ".join(members)] = scores
        serial.save(CaseCache(key=key, scores=known), path)
    return tuple(known[" + ".join(members)] for members in job.candidates)


def _read_cache(path: Path, key: str) -> dict[str, Scores]:
    if not path.is_file():
        return {}
    try:
        stored = serial.load(CaseCache, path)
    except RecordError:
        return {}
    return dict(stored.scores) if stored.key == key else {}


def _key(job: _Job) -> str:
    """Return a digest of all that the scores of a case depend on."""
    file = job.case.reference.stat()
    weights = sorted((name, digest) for name, (_, digest) in job.case.probabilities.items())
    parts = (file.st_size, file.st_mtime_ns, weights, job.measure, job.targets.model_dump_json())
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _cleaned_score(
    chosen: CandidateScore,
    cleaning: Cleaning | None,
    comparison: Comparison,
    selector: Selector,
) -> Estimate:
    if cleaning is None:
        return chosen.score
    rules = selector.selection_rules()
    groups = [case.group for case in comparison.cases]
    weights = draw_weights(groups, rules.replicates, rules.seed)
    return estimate(cleaning.after, weights, rules.confidence)


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None
