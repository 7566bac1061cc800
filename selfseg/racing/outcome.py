"""What a race found becomes part of the plan."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from selfseg.errors import PlanError
from selfseg.execution.locks import waited_for
from selfseg.folds import find_configuration
from selfseg.plan_checks import check_plan
from selfseg.racing.arms import apply_ideas, without_ideas
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
    # Another configuration's race may end now as well.
    with waited_for(folder.plan_lock, "changes the plan"):
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
    updated = plan.model_copy(update={"nominated": nominated})
    updated = updated.with_configuration(apply_ideas(basis.configuration, _won(record)))
    return reduce(Plan.superseded_by, _decisions(record), updated)


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
    tried = [_decision(_trials(record, idea)[-1], idea, record) for idea in record.basis.ideas]
    decide = (_decide_loss, _decide_start, _decide_hidden, _decide_borrows)
    at_stake = (function(record, _won(record)) for function in decide)
    return [*tried, *(decision for decision in at_stake if decision is not None)]


def _won(record: RaceRecord) -> list[Idea]:
    """Return the accepted ideas in the order in which they are applied."""
    ideas = {idea.name: idea for idea in record.basis.ideas}
    return [ideas[name] for name in record.accepted]


def _decide_loss(record: RaceRecord, won: Sequence[Idea]) -> Decision | None:
    former = record.basis.configuration.loss
    if record.loss == former:
        return None
    value, usual = (
        " + ".join(f"{term.weight:g} {term.kind}" for term in loss.terms)
        for loss in (record.loss, former)
    )
    return _stake(record, "loss", "loss.terms", value, _names(won), (usual,))


def _decide_start(record: RaceRecord, won: Sequence[Idea]) -> Decision | None:
    starts = [(idea, idea.start.title) for idea in record.basis.ideas if idea.start is not None]
    if not starts:
        return None
    former = record.basis.configuration.start
    usual = "random weights" if former is None else former.title
    value = next((title for idea, title in starts if idea in won), usual)
    others = tuple(title for title in (*(title for _, title in starts), usual) if title != value)
    because = _verdicts(record, [idea for idea, _ in starts])
    return _stake(record, "start", "start", value, because, others)


def _decide_hidden(record: RaceRecord, won: Sequence[Idea]) -> Decision | None:
    hidden = [idea.hidden_p for idea in won if idea.hidden_p is not None]
    if not hidden:
        return None
    usual = str(record.basis.configuration.augmentation.hidden_p)
    place = "augmentation.hidden_p"
    return _stake(record, "hidden_p", place, str(hidden[-1]), _names(won), (usual,))


def _decide_borrows(record: RaceRecord, won: Sequence[Idea]) -> Decision | None:
    lenders = [idea for idea in record.basis.ideas if idea.borrows]
    if not lenders:
        return None
    value = str(any(idea.borrows for idea in won))
    return _stake(record, "borrows", "borrows", value, _verdicts(record, lenders), ())


def _names(won: Sequence[Idea]) -> str:
    return f"ideas that won their race: {', '.join(idea.name for idea in won)}"


def _stake(
    record: RaceRecord,
    rule: str,
    place: str,
    value: str,
    because: str,
    alternatives: tuple[str, ...],
) -> Decision:
    """Return the decision on a part of a configuration that a race was about."""
    return Decision(
        rule=f"race.{rule}",
        subject=f"configurations.{record.basis.configuration.name}.{place}",
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
