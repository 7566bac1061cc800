"""What a race found becomes part of the plan."""

from __future__ import annotations

from collections.abc import Sequence

from selfseg.errors import PlanError
from selfseg.execution.locks import waited_for
from selfseg.folds import find_configuration
from selfseg.plan_checks import check_plan
from selfseg.racing.arms import apply_ideas, with_configuration, without_ideas
from selfseg.records import serial
from selfseg.records.ideas import Idea, IdeaTrial
from selfseg.records.plan import Decision, Plan
from selfseg.records.race import RaceRecord
from selfseg.workspace.dataset import DatasetFolder


def write_outcome(folder: DatasetFolder, record: RaceRecord) -> None:
    """Write the trials and the accepted ideas to plan.json, unless they stand there already.

    The plan that stands there now is changed: what was edited during the race stays.

    Raises:
        PlanError: The raced configuration or an idea was changed during the race.
    """
    with waited_for(folder.plan_lock):  # another configuration's race may end now as well
        updated = with_outcome(serial.load(Plan, folder.plan), record)
        check_plan(updated)
        serial.save_keeping_former(updated, folder.plan)


def with_outcome(plan: Plan, record: RaceRecord) -> Plan:
    """Return a plan with the trials of a race, with the accepted ideas and without the others.

    Raises:
        PlanError: The raced configuration or an idea was changed during the race.
    """
    basis = record.basis
    name = basis.configuration.name
    own = {idea.name: idea for idea in plan.nominated if idea.configuration == name}
    if all(_is_told(own.get(idea.name), idea, record) for idea in basis.ideas):
        return plan
    changed = [
        f"nominated.{idea.name}"
        for idea in basis.ideas
        if idea.name not in own
        or own[idea.name].model_copy(update={"trials": (), "because": idea.because}) != idea
    ]
    if without_ideas(find_configuration(plan, name), basis.ideas) != basis.configuration:
        changed.append(f"configurations.{name}")
    if changed:
        raise PlanError(
            f"plan of {plan.dataset}: {', '.join(changed)} changed during the race, whose outcome "
            "does not fit any more",
            remedy="Restore the plan and run the same command, or race again.",
        )
    nominated = tuple(
        _tried(idea, record) if idea.configuration == name else idea for idea in plan.nominated
    )
    changes = {"nominated": nominated, "decisions": (*plan.decisions, *_decisions(record))}
    updated = plan.model_copy(update=changes)
    won = [idea for name in record.accepted for idea in basis.ideas if idea.name == name]
    return with_configuration(updated, apply_ideas(basis.configuration, won))


def _is_told(now: Idea | None, raced: Idea, record: RaceRecord) -> bool:
    """Tell whether an idea of the plan has the trials of this race already, wherever they stand."""
    if now is None:
        return False
    trials = _trials(record, raced)
    count = len(trials)
    return any(now.trials[n : n + count] == trials for n in range(len(now.trials) - count + 1))


def _trials(record: RaceRecord, idea: Idea) -> tuple[IdeaTrial, ...]:
    return tuple(trial.trial for trial in record.trials if trial.idea == idea.name)


def _tried(idea: Idea, record: RaceRecord) -> Idea:
    """Return an idea with its trials of this race, the one that counts last."""
    return idea.model_copy(update={"trials": (*idea.trials, *_trials(record, idea))})


def _decisions(record: RaceRecord) -> list[Decision]:
    """Return one decision for each idea, and one for each part of the plan that was at stake."""
    basis = record.basis
    item, losses = basis.configuration, (basis.configuration.loss, record.loss)
    decisions = [_decision(_trials(record, idea)[-1], idea, record) for idea in basis.ideas]
    won = [idea for idea in basis.ideas if idea.name in record.accepted]
    former, loss = (" + ".join(f"{t.weight:g} {t.kind}" for t in loss.terms) for loss in losses)
    if losses[0] != losses[1]:
        because = f"ideas that won their race: {', '.join(record.accepted)}"
        decisions.append(_stake(item.name, "loss", "loss.terms", loss, because, (former,)))
    if starts := [idea for idea in basis.ideas if idea.start is not None]:
        titles = {idea.name: idea.start.title for idea in starts if idea.start is not None}
        usual = "random weights" if item.start is None else item.start.title
        value = next((titles[idea.name] for idea in won if idea.name in titles), usual)
        others = tuple(title for title in (*titles.values(), usual) if title != value)
        because = _verdicts(record, starts)
        decisions.append(_stake(item.name, "start", "start", value, because, others))
    if hidden := [idea.hidden_p for idea in won if idea.hidden_p is not None]:
        usual, place = str(item.augmentation.hidden_p), "augmentation.hidden_p"
        because = f"ideas that won their race: {', '.join(record.accepted)}"
        decisions.append(_stake(item.name, "hidden_p", place, str(hidden[-1]), because, (usual,)))
    if lenders := [idea for idea in basis.ideas if idea.borrows]:
        value = str(any(idea.borrows for idea in won))
        because = _verdicts(record, lenders)
        decisions.append(_stake(item.name, "borrows", "borrows", value, because, ()))
    return decisions


def _stake(
    name: str, rule: str, place: str, value: str, because: str, alternatives: tuple[str, ...]
) -> Decision:
    """Return the decision on a part of a configuration that a race was about."""
    return Decision(
        rule=f"race.{rule}",
        subject=f"configurations.{name}.{place}",
        value=value,
        because=because,
        alternatives=alternatives,
    )


def _verdicts(record: RaceRecord, ideas: Sequence[Idea]) -> str:
    """Return what became of ideas, and why."""
    last = [(idea.name, _trials(record, idea)[-1]) for idea in ideas]
    return "; ".join(
        f"{name} was {'accepted' if trial.accepted else 'rejected'} ({trial.because})"
        for name, trial in last
    )


def _decision(found: IdeaTrial, idea: Idea, record: RaceRecord) -> Decision:
    on = f" on top of {', '.join(found.on_top_of)}" if found.on_top_of else ""
    raced = f"raced{on} for {found.steps} steps on {len(found.folds)} folds with seed "
    raced += str(record.basis.seed)
    return Decision(
        rule="race.accept_idea",
        subject=f"configurations.{idea.configuration}.nominated.{idea.name}",
        value="accepted" if found.accepted else "rejected",
        because=f"{raced if found.gains else f'not compared{on}'}: {found.because}",
    )
