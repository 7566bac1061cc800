"""The gate that every change of a prediction must pass: judged where it was not tuned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from selfseg.planning import Selector
from selfseg.records.dataset import Targets
from selfseg.records.estimate import Estimate
from selfseg.records.plan import Decision
from selfseg.selection.scoring import HeldOut, Measure, Scores
from selfseg.selection.statistics import difference, draw_weights, mean_score

Floats = npt.NDArray[np.float64]
ROUNDING = 1e-9


@dataclass(frozen=True)
class Setting:
    """What stays the same in all trials; of the `tubular` labels no component is removed."""

    cases: tuple[HeldOut, ...]
    members: tuple[str, ...]
    targets: Targets
    measure: Measure
    selector: Selector
    workers: int
    tubular: tuple[str, ...] = ()


@dataclass(frozen=True)
class Judgement:
    """What the gate says of scores with a change, against those without it."""

    gain: Estimate
    worst_change: float
    decision: Decision


def judge(setting: Setting, base: Floats, judged: Floats, columns: slice) -> Judgement | None:
    """Let the planner decide on a change that no case was scored with that it was tuned on.

    Args:
        setting: Cases, groups and rules.
        base: Scores (cases, names) without the change.
        judged: Scores with it.
        columns: Names whose gain counts; no name at all may lose.

    Returns:
        None where these names occur nowhere.
    """
    if not np.isfinite([mean_score(base[:, columns]), mean_score(judged[:, columns])]).all():
        return None
    rules = setting.selector.selection_rules()
    groups = [case.group for case in setting.cases]
    weights = draw_weights(groups, rules.replicates, rules.seed)
    gain = difference(judged[:, columns], base[:, columns], weights, rules.confidence)
    names = range(base.shape[1])
    changes = [mean_score(judged[:, [i]]) - mean_score(base[:, [i]]) for i in names]
    known = [change for change in changes if np.isfinite(change)]
    # A case that neither map has any more is right: it counts as 1 here.
    per_case = np.nan_to_num(judged[:, columns], nan=1) - np.nan_to_num(base[:, columns], nan=1)
    moved = per_case.sum(1)
    better, worse = int((moved > ROUNDING).sum()), int((moved < -ROUNDING).sum())
    worst = min(known, default=0.0)
    decision = setting.selector.accept_step(
        gain, worst, cases=len(base), cases_better=better, cases_worse=worse
    )
    return Judgement(gain, worst, decision)


def score_table(scores: Sequence[Scores]) -> Floats:
    """Return scores (cases, names), NaN where undefined."""
    return np.array(
        [[np.nan if value is None else value for value in case] for case in scores], np.float64
    )
