"""Which ideas are raced, and the plan of each arm."""

from __future__ import annotations

from collections.abc import Sequence

from selfseg.errors import PlanError
from selfseg.folds import find_configuration
from selfseg.plan_checks import check_plan
from selfseg.records.ideas import Idea
from selfseg.records.plan import Configuration, Plan

# What nominates an idea of such a name, for who misses it.
NOMINATED_BY = {
    "transfer": "'selfseg plan --init' nominates transfer, unless it refuses the model "
    "('selfseg plan --explain' says why)",
    "pretrained": "'selfseg pretrain' nominates pretrained, unless the network learned nothing",
    "auxiliary": "'selfseg plan --auxiliary' nominates auxiliary",
}


def entrants(
    plan: Plan, configuration: Configuration, wanted: Sequence[str] | None, most: int
) -> tuple[Idea, ...]:
    """Return the ideas to race, in the plan's order: those wanted, else all that were not yet.

    Raises:
        PlanError: A wanted idea does not exist, or is accepted and cannot be taken out again.
    """
    own = [idea for idea in plan.nominated if idea.configuration == configuration.name]
    if wanted is None:
        return tuple(idea for idea in own if not idea.trials)[:most]
    names = [idea.name for idea in own]
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        told = [NOMINATED_BY[name] for name in unknown if name in NOMINATED_BY]
        raise PlanError(
            f"nominated: no idea {', '.join(map(repr, unknown))} of {configuration.name}",
            remedy="; ".join([f"There is: {', '.join(names) or 'none'}", *told]) + ".",
        )
    chosen = tuple(idea for idea in own if idea.name in wanted)
    inside = [idea.name for idea in chosen if _is_inside(idea)]
    if inside:
        raise PlanError(
            f"nominated: {', '.join(inside)}: accepted before, and part of {configuration.name}",
            remedy="Leave it out of --ideas.",
        )
    if len(chosen) > most:
        raise PlanError(
            f"--ideas: {len(chosen)} ideas, at most {most} are raced at once: the more are tried, "
            "the more are accepted by chance",
            remedy="Name fewer.",
        )
    return chosen


def _is_inside(idea: Idea) -> bool:
    """Tell whether an idea was accepted and no arm is trained without it (`without_ideas`)."""
    accepted = bool(idea.trials) and idea.trials[-1].accepted
    return accepted and bool(idea.terms or idea.replaces or idea.hidden_p)


def apply_idea(item: Configuration, idea: Idea) -> Configuration:
    """Return a configuration with an idea: its terms in place of others, its start, its samples."""
    kept = tuple(term for term in item.loss.terms if term.kind not in idea.replaces)
    loss = item.loss.model_copy(update={"terms": (*kept, *idea.terms)})
    changes = {
        "loss": loss,
        "start": idea.start or item.start,
        "borrows": item.borrows or idea.borrows,
        "augmentation": item.augmentation.model_copy(
            update={} if idea.hidden_p is None else {"hidden_p": idea.hidden_p}
        ),
    }
    return item.model_copy(update=changes)


def apply_ideas(item: Configuration, ideas: Sequence[Idea]) -> Configuration:
    """Return a configuration with several ideas, in this order."""
    for idea in ideas:
        item = apply_idea(item, idea)
    return item


def without_ideas(item: Configuration, ideas: Sequence[Idea]) -> Configuration:
    """Return a configuration without what ideas bring that a plan may use before any race.

    These are starts and the auxiliary data set; terms join a loss only when they have won.
    """
    changes: dict[str, object] = {}
    if item.start is not None and any(idea.start == item.start for idea in ideas):
        changes["start"] = None
    if any(idea.borrows for idea in ideas):
        changes["borrows"] = False
    return item.model_copy(update=changes)


def arm_plan(plan: Plan, name: str, ideas: Sequence[Idea]) -> Plan:
    """Return the plan of an arm, in which no shape models are made but those its loss needs.

    Raises:
        PlanError: An idea does not fit the data, changes nothing, or would take away what is not
            there, or what an idea before it brought.
    """
    plain = find_configuration(plan, name)
    changed = apply_ideas(plain, ideas)
    told = ", ".join(idea.name for idea in ideas)
    remedy = (
        f"Mend or remove the idea ({told}) in 'nominated' of plan.json, or name others with "
        "--ideas."
    )
    if refused := _replacement_fault(plain, ideas):
        raise PlanError(f"nominated: {refused}", remedy=remedy)
    if ideas and changed == plain:
        raise PlanError(f"nominated: {told} changes nothing in {name}", remedy=remedy)
    if not changed.loss.terms:
        raise PlanError(f"nominated: {told} leaves no term in the loss of {name}", remedy=remedy)
    unscored = plan.shapes.model_copy(update={"labels": ()})  # quality scores are no part of a race
    made = plan.with_configuration(changed).model_copy(
        update={"nominated": (), "init": None, "shapes": unscored}
    )
    check_plan(made, remedy=remedy)
    return made


def _replacement_fault(item: Configuration, ideas: Sequence[Idea]) -> str:
    """Return which idea cannot replace what it should, and why; '' if all can."""
    brought: dict[str, str] = {}
    started = ""
    for idea in ideas:
        there = {term.kind for term in item.loss.terms}
        for kind in idea.replaces:
            if kind in brought:
                return f"{idea.name} replaces {kind}, which {brought[kind]} brought"
            if kind not in there:
                return f"{idea.name} replaces {kind}, which the loss does not have"
        if idea.start is not None and started:
            return f"{idea.name} starts from one model, {started} from another"
        started = idea.name if idea.start is not None else started
        item = apply_idea(item, idea)
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
