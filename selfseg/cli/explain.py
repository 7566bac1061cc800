"""`plan --explain`: what to train first, then every decision, gathered by configuration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from selfseg.cli.tables import console
from selfseg.records.ideas import Idea
from selfseg.records.plan import Decision, Plan

PREFIX = "configurations."


def print_decisions(plan: Plan) -> None:
    """Print every decision of a plan with its reason."""
    out = console()
    names = _ordered_names(plan)
    verdicts = {d.subject: d for d in plan.decisions if d.subject.removeprefix(PREFIX) in names}
    order = Table(
        title=f"Configurations of {plan.dataset}, by planner {plan.planner}", show_lines=True
    )
    for column in ("configuration", "verdict", "because"):
        order.add_column(column, overflow="fold")
    for rank, name in _ranked(plan, names):
        decision = verdicts.get(PREFIX + name)
        if decision is not None:
            order.add_row(f"{rank}{name}", decision.value, decision.because)
    out.print(order)
    rest = [d for d in plan.decisions if d.subject not in verdicts]
    common = [d for d in rest if _configuration_of(d, names) is None]
    own = {name: [d for d in rest if _configuration_of(d, names) == name] for name in names}
    own = {name: [_about(d, name) for d in found] for name, found in own.items() if found}
    first = next(iter(own.values()), [])
    shared = [d for d in first if len(own) > 1 and all(d in others for others in own.values())]
    out.print(_decision_table("What all configurations share", (*common, *shared)))
    for name, found in own.items():
        out.print(_decision_table(name, [d for d in found if d not in shared]))
    if plan.nominated:
        out.print(_nominations(plan.nominated))


def _ordered_names(plan: Plan) -> list[str]:
    """Return proposed configurations in order, then the planned, then those left out."""
    planned = [item.name for item in plan.configurations]
    known = ("2d", "2.5d", "3d_fullres", "3d_lowres", "3d_cascade")
    decided = [name for name in known if any(d.subject == PREFIX + name for d in plan.decisions)]
    return list(dict.fromkeys((*plan.proposed, *planned, *decided)))


def _ranked(plan: Plan, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield `1. ` and so on for proposed configurations, nothing for others."""
    for number, name in enumerate(names, start=1):
        yield (f"{number}. " if name in plan.proposed else ""), name


def _configuration_of(decision: Decision, names: Sequence[str]) -> str | None:
    """Return the configuration that a decision is about, if it is about one."""
    about = (name for name in names if decision.subject.startswith(f"{PREFIX}{name}."))
    return next(about, None)


def _about(decision: Decision, name: str) -> Decision:
    """Return a decision with its subject inside the configuration: `patch`."""
    subject = decision.subject.removeprefix(f"{PREFIX}{name}.")
    return decision.model_copy(update={"subject": subject})


def _decision_table(title: str, decisions: Sequence[Decision]) -> Table:
    table = Table(title=title, show_lines=True)
    for column in ("what", "value", "because"):
        table.add_column(column, overflow="fold")
    for item in decisions:
        reason = item.because
        if item.alternatives:
            reason += f"\n(instead: {'; '.join(item.alternatives)})"
        table.add_row(item.subject, item.value, reason)
    return table


def _nominations(ideas: Sequence[Idea]) -> Table:
    table = Table(title="Nominated: 'selfseg race' tries these", show_lines=True)
    for column in ("idea", "for", "change", "because"):
        table.add_column(column, overflow="fold")
    for name in dict.fromkeys(idea.name for idea in ideas):
        alike = [idea for idea in ideas if idea.name == name]
        configurations = ", ".join(idea.configuration for idea in alike)
        table.add_row(name, configurations, "\n".join(alike[0].changes), alike[0].because)
    return table
