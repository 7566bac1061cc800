"""Paired gains of an arm over another on held-out cases, and the verdict on an idea."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from selfseg.racing.rules import Racer
from selfseg.racing.statistics import Interval, mean_interval
from selfseg.records.ideas import Idea, IdeaTrial, RaceGain
from selfseg.records.metrics import CaseScores, LabelScores
from selfseg.records.race import (
    Arm,
    ArmResult,
    RacedCase,
    RaceEvidence,
    RaceMetric,
    RaceTrial,
)

Floats = npt.NDArray[np.float64]
ROUNDING = 1e-9
ALWAYS: tuple[RaceMetric, ...] = ("dice", "nsd")  # are told of every idea


@dataclass(frozen=True)
class Ground:
    """What stays the same in all trials: held-out cases, labels or regions, steps, rules."""

    cases: tuple[RacedCase, ...]
    names: tuple[str, ...]
    steps: int
    racer: Racer


def judge(
    ground: Ground, idea: Idea, arm: Arm, result: ArmResult, against: Arm, former: ArmResult
) -> RaceTrial:
    """Compare an arm that has an idea with the same arm without it.

    A case's gain is the mean over the idea's labels of the mean over the planner's metrics of the
    differences.

    An idea whose arm could not be trained to its end, or whose labels no held-out case has, is
    rejected for that.
    """
    if result.stopped:
        return uncompared(idea.name, arm, against, result.stopped)
    metrics, columns = ground.racer.race_metrics(idea), _columns(ground.names, idea)
    tables = {
        metric: paired_gains(result.cases, former.cases, ground.names, metric)
        for metric in dict.fromkeys((*metrics, *ALWAYS))
    }
    judged = _mean(_mean(np.stack([tables[metric][:, columns] for metric in metrics]), 0), 1)
    if not np.isfinite(judged).any():
        because = "no held-out case has any of its labels, annotated or predicted"
        return uncompared(idea.name, arm, against, because)
    interval = _interval(ground, judged)
    pairs = zip(ground.cases, np.isfinite(judged), strict=True)
    folds = {case.fold for case, is_known in pairs if is_known}
    changes = _mean(tables["dice"], 0)
    evidence = RaceEvidence(
        metrics=metrics,
        gain=interval.estimate,
        worst_change=float(np.nanmin(changes)),
        folds=len(folds),
        cases=int(np.isfinite(judged).sum()),
        cases_better=int((judged > ROUNDING).sum()),
        by_fold=interval.by_fold,
        is_transfer=idea.is_transfer,
    )
    decision = ground.racer.accept_idea(evidence)
    single = {metric: _mean(table[:, columns], 1) for metric, table in tables.items()}
    gains = [RaceGain(metric=f"mean of {' and '.join(metrics)}", gain=interval.estimate)]
    gains += [
        RaceGain(metric=metric, gain=_interval(ground, values).estimate)
        for metric, values in single.items()
        if np.isfinite(values).any()
    ]
    trial = IdeaTrial(
        on_top_of=against.ideas,
        folds=tuple(dict.fromkeys(case.fold for case in ground.cases)),
        cases=evidence.cases,
        steps=ground.steps,
        gains=tuple(gains),
        worst_change=evidence.worst_change,
        accepted=decision.value == "accepted",
        because=decision.because,
    )
    return RaceTrial(
        idea=idea.name,
        arm=arm.name,
        against=against.name,
        gains=tuple(float(gain) if np.isfinite(gain) else None for gain in judged),
        trial=trial,
    )


def uncompared(name: str, arm: Arm, against: Arm, because: str) -> RaceTrial:
    """Return the trial of an idea that is rejected without a number."""
    trial = IdeaTrial(
        on_top_of=against.ideas, folds=(), cases=0, steps=0, gains=(), worst_change=None,
        accepted=False, because=because,
    )  # fmt: skip
    return RaceTrial(idea=name, arm=arm.name, against=against.name, gains=(), trial=trial)


def paired_gains(
    arm: Sequence[CaseScores],
    against: Sequence[CaseScores],
    names: Sequence[str],
    metric: RaceMetric,
) -> Floats:
    """Return differences (cases, names) of scores in [0, 1]; NaN where neither arm has one.

    A label that the reference lacks has no score where an arm finds nothing either, which is
    right: it counts as 1 if the other arm did find something.
    """
    ours, theirs = (
        np.array([[_score(case.labels[name], metric) for name in names] for case in cases])
        for cases in (arm, against)
    )
    neither = np.isnan(ours) & np.isnan(theirs)
    gains: Floats = np.nan_to_num(ours, nan=1.0) - np.nan_to_num(theirs, nan=1.0)
    return np.where(neither, np.nan, gains)


def _score(scores: LabelScores, metric: RaceMetric) -> float:
    """Return a score in [0, 1], 1 being best; NaN if it is undefined.

    `betti0` is 1 / (1 + error): bounded, so that no case with hundreds of pieces decides alone.
    """
    value: float | None
    if metric in ("dice", "nsd"):
        value = scores.dice if metric == "dice" else scores.nsd
    elif scores.topology is None or scores.dice is None:
        value = None
    elif metric == "cldice":
        value = scores.topology.cldice
    else:
        error = scores.topology.betti0_error
        value = None if error is None else 1 / (1 + error)
    return np.nan if value is None else value


def _columns(names: Sequence[str], idea: Idea) -> list[int]:
    return [place for place, name in enumerate(names) if not idea.labels or name in idea.labels]


def _interval(ground: Ground, values: Floats) -> Interval:
    """Return the mean of the defined values and its interval."""
    rules, known = ground.racer.race_rules(), np.isfinite(values)
    cases = [case for case, is_known in zip(ground.cases, known, strict=True) if is_known]
    return mean_interval(
        values[known],
        [case.group for case in cases],
        [case.fold for case in cases],
        confidence=rules.confidence,
        fold_level=rules.fold_level,
    )


def _mean(values: Floats, axis: int) -> Floats:
    """Return the mean of what is defined along an axis, NaN where nothing is."""
    known = np.isfinite(values)
    count = known.sum(axis)
    total = np.where(known, values, 0.0).sum(axis)
    means: Floats = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return means
