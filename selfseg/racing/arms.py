"""Which ideas are raced, and the plan of each arm."""

from __future__ import annotations

from collections.abc import Sequence

from selfseg.errors import PlanError
from selfseg.folds import find_configuration
from selfseg.plan_checks import check_plan
from selfseg.records.ideas import Idea
from selfseg.records.loss import Loss
from selfseg.records.plan import Configuration, Plan


def entrants(
    plan: Plan, configuration: Configuration, wanted: Sequence[str] | None, most: int
) -> tuple[Idea, ...]:
    """Return the ideas to race, in the plan's order: those wanted, else all that were not yet.

    Raises:
        PlanError: A wanted idea does not exist or is part of the loss already.
    """
    own = [idea for idea in plan.nominated if idea.configuration == configuration.name]
    if wanted is None:
        return tuple(idea for idea in own if not idea.trials)[:most]
    names = [idea.name for idea in own]
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        raise PlanError(
            f"nominated: no idea {', '.join(map(repr, unknown))} of {configuration.name}",
            remedy=f"There is: {', '.join(names) or 'none'}.",
        )
    chosen = tuple(idea for idea in own if idea.name in wanted)
    inside = [idea.name for idea in chosen if idea.trials and idea.trials[-1].accepted]
    if inside:
        raise PlanError(
            f"nominated: {', '.join(inside)}: accepted before, and part of the loss of "
            f"{configuration.name}",
            remedy="Leave it out of --ideas.",
        )
    if len(chosen) > most:
        raise PlanError(
            f"--ideas: {len(chosen)} ideas, at most {most} are raced at once: the more are tried, "
            "the more are accepted by chance",
            remedy="Name fewer.",
        )
    return chosen


def apply_idea(loss: Loss, idea: Idea) -> Loss:
    """Return a loss without the kinds of terms that an idea replaces, and with its own."""
    kept = tuple(term for term in loss.terms if term.kind not in idea.replaces)
    return loss.model_copy(update={"terms": (*kept, *idea.terms)})


def apply_ideas(loss: Loss, ideas: Sequence[Idea]) -> Loss:
    """Return a loss with several ideas, in this order."""
    for idea in ideas:
        loss = apply_idea(loss, idea)
    return loss


def with_loss(plan: Plan, name: str, loss: Loss) -> Plan:
    """Return a plan with another loss of one configuration."""
    configurations = tuple(
        item.model_copy(update={"loss": loss}) if item.name == name else item
        for item in plan.configurations
    )
    return plan.model_copy(update={"configurations": configurations})


def arm_plan(plan: Plan, name: str, ideas: Sequence[Idea]) -> Plan:
    """Return the plan of an arm.

    Raises:
        PlanError: An idea does not fit the data, changes nothing, or would take away what is not
            there, or what an idea before it brought.
    """
    loss = find_configuration(plan, name).loss
    changed = apply_ideas(loss, ideas)
    told = ", ".join(idea.name for idea in ideas)
    remedy = (
        f"Mend or remove the idea ({told}) in 'nominated' of plan.json, or name others with "
        "--ideas."
    )
    if refused := _replacement_fault(loss, ideas):
        raise PlanError(f"nominated: {refused}", remedy=remedy)
    if ideas and changed == loss:
        raise PlanError(f"nominated: {told} changes nothing in the loss of {name}", remedy=remedy)
    if not changed.terms:
        raise PlanError(f"nominated: {told} leaves no term in the loss of {name}", remedy=remedy)
    made = with_loss(plan, name, changed).model_copy(update={"nominated": ()})
    check_plan(made, remedy=remedy)
    return made


def _replacement_fault(loss: Loss, ideas: Sequence[Idea]) -> str:
    """Return which idea cannot replace what it should, and why; '' if all can."""
    brought: dict[str, str] = {}
    for idea in ideas:
        there = {term.kind for term in loss.terms}
        for kind in idea.replaces:
            if kind in brought:
                return f"{idea.name} replaces {kind}, which {brought[kind]} brought"
            if kind not in there:
                return f"{idea.name} replaces {kind}, which the loss does not have"
        loss = apply_idea(loss, idea)
        brought |= {term.kind: idea.name for term in idea.terms}
    return ""


def describe_rest(plan: Plan, configuration: Configuration) -> str:
    """Return what was looked at where there is no idea to race."""
    own = [idea for idea in plan.nominated if idea.configuration == configuration.name]
    others = sorted({idea.configuration for idea in plan.nominated} - {configuration.name})
    tried = ", ".join(
        f"{idea.name} ({'accepted' if idea.trials[-1].accepted else 'rejected'})"
        for idea in own
        if idea.trials
    )
    parts = [
        f"{configuration.name}: no nominated idea to race; plan.json nominates "
        f"{len(plan.nominated)}, {len(own)} of them for this configuration"
    ]
    if tried:
        parts.append(f"raced before: {tried}; --ideas NAME races a rejected one again")
    if others:
        parts.append(f"other configurations have some: --config {' or '.join(others)}")
    return "; ".join(parts)
