"""Make a plan fit a model to start from, or say why none does."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from selfseg.errors import PlanError
from selfseg.planning import find_planner
from selfseg.records.plan import Plan
from selfseg.records.source import Adoption, SourceFacts
from selfseg.requests import StartRequest


@runtime_checkable
class Adopter(Protocol):
    """What a planner may offer as well: plans that fit a model to start from."""

    def adopt(self, plan: Plan, source: SourceFacts) -> Adoption:
        """Decide a configuration that fits a model, or tell why there is none."""
        ...


def find_adopter(name: str = "default") -> Adopter:
    """Return the rules of a planner for fitting a model; the default planner's if it has none."""
    planner = find_planner(name)
    if isinstance(planner, Adopter):
        return planner
    default = find_planner("default")
    assert isinstance(default, Adopter)
    return default


def read_facts(request: StartRequest) -> SourceFacts:
    """Return what a planner may know of a model.

    Raises:
        ModelError: There is no such model, or several without a choice.
    """
    from selfseg.training.start import open_source

    return open_source(request.folder, request.configuration, request.fold).facts


def adopt_model(plan: Plan, model: SourceFacts, *, planner: str = "default") -> Plan:
    """Return a plan whose configuration of a model's name fits the model, and comes first.

    Raises:
        PlanError: There can be none; says why.
    """
    adoption = find_adopter(planner).adopt(plan, model)
    made = adoption.configuration
    if made is None:
        raise PlanError(
            f"no plan for {plan.dataset} fits {model.model.title}: {'; '.join(adoption.refusals)}",
            remedy="Choose another model or configuration of it (--init-config), or plan without "
            "--init; 'selfseg train --init' then takes what fits.",
        )
    configurations = tuple(made if item.name == made.name else item for item in plan.configurations)
    rest = (name for name in plan.proposed if name != made.name)
    changes = {
        "configurations": configurations,
        "proposed": (made.name, *rest),
        "decisions": (*plan.decisions, *adoption.decisions),
    }
    return plan.model_copy(update=changes)
