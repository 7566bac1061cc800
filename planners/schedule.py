"""What a run trains in a limited time: first fewer configurations, then fewer folds."""

from __future__ import annotations

from collections.abc import Sequence

from selfseg.records.names import ConfigurationName
from selfseg.records.plan import Decision
from selfseg.records.run import Schedule, Speed, Training

# Fewer steps than this lose more than one more fold or configuration gains: on hippocampus MR three
# 3D trainings of 470 steps together reach a mean Dice of 0.865, of 600 steps 0.872; one alone of
# 900 steps reaches 0.875, of 1,285 steps 0.879.
FEWEST_STEPS = 800
# Of the time, for what no estimate foresees: start-up, slow moments, the last step of a training.
RESERVE = 0.03
SELECTION_S_PER_CASE = 0.5  # scoring ensembles and post-processing of one held-out case
SELECTION_S = 5.0


def decide_schedule(
    speeds: Sequence[Speed], held_out: Sequence[int], remaining_s: float | None
) -> Schedule:
    """Return what is trained.

    Args:
        speeds: Of the proposed configurations, the one to train first in front.
        held_out: Held-out cases of each fold.
        remaining_s: Time that is left; None trains everything.
    """
    speeds, folds = _stages_first(speeds), len(held_out)
    everything = _trainings(speeds, folds)
    if remaining_s is None:
        because = "no time limit: every proposed configuration, all folds"
        return _schedule(everything, held_out, because)
    tried: list[str] = []
    for trainings in _plans(speeds, folds):
        seconds = time_each(trainings, held_out, speeds, remaining_s)
        names = {training.configuration for training in trainings}
        steps = seconds / max(s.step_s for s in speeds if s.configuration in names)
        shown = f"{_shown(trainings)}: {max(seconds, 0) / 60:.1f} minutes each, "
        shown += f"{max(steps, 0):.0f} steps"
        if steps >= FEWEST_STEPS or len(trainings) == 1:
            because = f"{shown} (at least {FEWEST_STEPS} are wanted)"
            return _schedule(trainings, held_out, because, tuple(tried[:4]))
        tried.append(shown)
    raise AssertionError("the smallest plan has one training")


def time_each(
    trainings: Sequence[Training],
    held_out: Sequence[int],
    speeds: Sequence[Speed],
    remaining_s: float,
    *,
    used_s: float = 0.0,
) -> float:
    """Return how long each of some trainings may take, so that all ends in time; may be negative.

    Args:
        trainings: What is left to do.
        held_out: Held-out cases of each fold.
        speeds: Give the time of predicting held-out cases.
        remaining_s: Time that is left.
        used_s: What the first of them has had already; it is given the same total.
    """
    case_s = {speed.configuration: speed.case_s for speed in speeds}
    validation_s = sum(case_s[t.configuration] * held_out[int(t.fold)] for t in trainings)
    cases = sum(held_out[fold] for fold in {int(t.fold) for t in trainings})
    selection_s = SELECTION_S + SELECTION_S_PER_CASE * cases
    free_s = remaining_s * (1 - RESERVE) - validation_s - selection_s
    return (free_s + used_s) / len(trainings)


def _plans(speeds: Sequence[Speed], folds: int) -> list[list[Training]]:
    """Return what could be trained: from everything down to one fold of one configuration."""
    counts = range(len(speeds), 0, -1)
    fewer_configurations = [_trainings(speeds[:count], folds) for count in counts]
    fewer_folds = [_trainings(speeds[:1], count) for count in range(folds - 1, 0, -1)]
    return [*fewer_configurations, *fewer_folds]


def _stages_first(speeds: Sequence[Speed]) -> list[Speed]:
    """Return configurations in their order, but the stage before a cascade in front of it."""
    by_name = {speed.configuration: speed for speed in speeds}
    ordered: dict[str, Speed] = {}
    for speed in speeds:
        if speed.previous_stage in by_name:
            ordered.setdefault(speed.previous_stage, by_name[speed.previous_stage])
        ordered.setdefault(speed.configuration, speed)
    return list(ordered.values())


def _trainings(speeds: Sequence[Speed], folds: int) -> list[Training]:
    """Return all folds of some configurations; a cascade only where its previous stage is."""
    names: set[ConfigurationName] = {speed.configuration for speed in speeds}
    return [
        Training(configuration=speed.configuration, fold=str(fold))
        for speed in speeds
        if speed.previous_stage is None or speed.previous_stage in names
        for fold in range(folds)
    ]


def _schedule(
    trainings: Sequence[Training],
    held_out: Sequence[int],
    because: str,
    alternatives: tuple[str, ...] = (),
) -> Schedule:
    return Schedule(
        trainings=tuple(trainings),
        validation_cases=tuple(held_out[int(t.fold)] for t in trainings),
        decision=Decision(
            rule="schedule",
            subject="trainings",
            value=_shown(trainings),
            because=because,
            alternatives=alternatives,
        ),
    )


def _shown(trainings: Sequence[Training]) -> str:
    names = list(dict.fromkeys(t.configuration for t in trainings))
    folds = len({t.fold for t in trainings})
    return f"{', '.join(names)} × {folds} fold{'s' if folds > 1 else ''}"
