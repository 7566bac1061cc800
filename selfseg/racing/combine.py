"""Ideas that won alone, tried on top of each other."""

from __future__ import annotations

from selfseg.errors import PlanError
from selfseg.racing.judge import Ground, judge, uncompared
from selfseg.racing.train import Track, train_arms
from selfseg.records.race import Arm, ArmResult, RaceRecord, RaceTrial


def combine(track: Track, record: RaceRecord, ground: Ground) -> RaceRecord:
    """Take the best idea that won; try each further one on top of what was taken before.

    Raises:
        SelfSegError: As `train`.
    """
    accepted = [trial for trial in record.trials if trial.trial.accepted]
    won = ground.racer.rank_ideas(accepted)
    if not won:
        return record
    by_name = {idea.name: idea for idea in track.ideas}
    pairs = zip(record.arms, record.results, strict=True)
    arm, result = next(pair for pair in pairs if pair[0].name == won[0].arm)
    left = record.length.further_arms
    for former in won[1:]:
        further = Arm(ideas=(*arm.ideas, former.idea))
        if refused := _refusal(track, further):
            record = _with(record, uncompared(former.idea, further, arm, refused))
            continue
        if left == 0:
            because = f"accepted alone; no time was kept to try it on top of {', '.join(arm.ideas)}"
            record = _with(record, uncompared(former.idea, further, arm, because))
            continue
        left -= 1
        (found,) = train_arms(track, [further], record.basis.folds, record.length)
        trial = judge(ground, by_name[former.idea], further, found, arm, result)
        record = _with(record, trial, (further, found))
        if trial.trial.accepted:
            arm, result = further, found
    return record.model_copy(update={"accepted": arm.ideas})


def _refusal(track: Track, arm: Arm) -> str:
    """Return why the ideas of an arm do not go together; '' if they do."""
    try:
        track.planned_arm(arm)
    except PlanError as error:
        return f"cannot be combined: {error.message}"
    return ""


def _with(
    record: RaceRecord, trial: RaceTrial, trained: tuple[Arm, ArmResult] | None = None
) -> RaceRecord:
    """Return a record with a further trial, and the arm that was trained for it."""
    arms, results = record.arms, record.results
    if trained is not None:
        arms, results = (*arms, trained[0]), (*results, trained[1])
    changes = {"arms": arms, "results": results, "trials": (*record.trials, trial)}
    return record.model_copy(update=changes)
