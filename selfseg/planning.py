"""Find a planner, run it, and edit its plan on the user's word."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol, runtime_checkable

from selfseg.errors import PlannerError
from selfseg.records.classification import ClassificationFacts, ClassificationPlan
from selfseg.records.dataset import Dataset, Splits
from selfseg.records.estimate import Estimate
from selfseg.records.fingerprint import Fingerprint
from selfseg.records.plan import Budget, Configuration, Decision, Plan
from selfseg.records.run import Schedule, Speed, Training
from selfseg.records.selection import CandidateScore, SelectionRules

log = logging.getLogger(__name__)

GROUP = "selfseg.planners"


@runtime_checkable
class Planner(Protocol):
    """All that selfseg knows of a planner."""

    name: str
    version: str

    def plan(self, dataset: Dataset, fingerprint: Fingerprint, budget: Budget) -> Plan:
        """Decide everything about a dataset."""
        ...

    def split(self, dataset: Dataset, fingerprint: Fingerprint, folds: int = 5) -> Splits:
        """Decide the folds of a dataset."""
        ...

    def memory_gib(
        self, plan: Plan, configuration: Configuration, *, bfloat16: bool = False
    ) -> float:
        """Estimate the memory of a training step, also of a configuration that a user edited.

        On a CPU in float32 unless `bfloat16`.
        """
        ...


@runtime_checkable
class Selector(Protocol):
    """What a planner may offer as well: the rules of a selection."""

    def selection_rules(self) -> SelectionRules:
        """Decide what a selection tries."""
        ...

    def choose_candidate(self, candidates: Sequence[CandidateScore]) -> Decision:
        """Decide which candidate is taken; the decision's value is its name."""
        ...

    def accept_step(
        self,
        gain: Estimate,
        worst_change: float,
        *,
        cases: int,
        cases_better: int,
        cases_worse: int,
    ) -> Decision:
        """Decide whether a post-processing step is `accepted` or `rejected`."""
        ...


@runtime_checkable
class Scheduler(Protocol):
    """What a planner may offer as well: how a limited time is divided."""

    def schedule(
        self, speeds: Sequence[Speed], held_out: Sequence[int], remaining_s: float | None
    ) -> Schedule:
        """Decide what is trained; `held_out` counts the held-out cases of each fold."""
        ...

    def time_each(
        self,
        trainings: Sequence[Training],
        held_out: Sequence[int],
        speeds: Sequence[Speed],
        remaining_s: float,
        *,
        used_s: float = 0.0,
    ) -> float:
        """Decide how long, in seconds, each of the trainings that are left may take."""
        ...


@runtime_checkable
class ClassifierPlanner(Protocol):
    """What a planner may offer as well: the choices of a classifier."""

    def decide_classification(self, facts: ClassificationFacts) -> ClassificationPlan:
        """Decide features, models and folds."""
        ...


def find_classifier(name: str = "default") -> ClassifierPlanner:
    """Return the rules of classification of a planner; the default planner's where it has none."""
    planner = find_planner(name)
    if isinstance(planner, ClassifierPlanner):
        return planner
    default = find_planner("default")
    assert isinstance(default, ClassifierPlanner)
    return default


def find_scheduler(name: str = "default") -> Scheduler:
    """Return the schedule rules of a planner; the default planner's where it has none."""
    planner = find_planner(name)
    if isinstance(planner, Scheduler):
        return planner
    default = find_planner("default")
    assert isinstance(default, Scheduler)
    return default


def find_selector(name: str = "default") -> Selector:
    """Return the selection rules of a planner; the default planner's where it has none."""
    planner = find_planner(name)
    if isinstance(planner, Selector):
        return planner
    default = find_planner("default")
    assert isinstance(default, Selector)
    return default


def find_planner(name: str) -> Planner:
    """Return the installed planner of that name.

    Raises:
        PlannerError: None or several have the name, or it cannot be loaded.
    """
    installed = entry_points(group=GROUP)
    found = [entry for entry in installed if entry.name == name]
    if not found:
        names = ", ".join(sorted({entry.name for entry in installed})) or "none"
        raise PlannerError(
            f"no planner named {name!r}; installed: {names}",
            remedy="Install the package that has it; in a checkout run 'pip install -e .' again.",
        )
    if len({entry.value for entry in found}) > 1:
        owners = ", ".join(f"{_owner(entry)} ({entry.value})" for entry in found)
        raise PlannerError(
            f"planner {name!r} is registered by several packages: {owners}",
            remedy="Uninstall all but one of them.",
        )
    try:
        planner = found[0].load()()
    except Exception as error:  # a plug-in may fail in any way; it must be named
        raise PlannerError(
            f"planner {name!r} of {_owner(found[0])} cannot be loaded: {error!r}",
            remedy="This is a fault of that package; choose another planner or mend it.",
        ) from error
    if not isinstance(planner, Planner):
        raise PlannerError(
            f"planner {name!r} of {_owner(found[0])} lacks name, version, plan, split or "
            "memory_gib",
            remedy="See selfseg.planning.Planner for what a planner offers.",
        )
    return planner


def make_plan(
    dataset: Dataset, fingerprint: Fingerprint, budget: Budget, *, planner: str = "default"
) -> Plan:
    """Let a planner decide."""
    return find_planner(planner).plan(dataset, fingerprint, budget)


def make_splits(dataset: Dataset, fingerprint: Fingerprint, *, planner: str = "default") -> Splits:
    """Let a planner decide the folds."""
    return find_planner(planner).split(dataset, fingerprint)


def update_memory(plan: Plan, former: Plan, *, planner: str = "default") -> Plan:
    """Estimate anew the memory of configurations that were edited since `former`.

    An estimate that the user set stays. Says which configurations exceed the budget now.
    """
    decider = find_planner(planner)
    before = {item.name: item for item in former.configurations}
    updated = []
    for item in plan.configurations:
        known = before.get(item.name)
        if known is not None and item != known and item.memory_gib == known.memory_gib:
            memory, reduced = plan.budget.estimates(partial(decider.memory_gib, plan, item))
            item = item.model_copy(update={"memory_gib": memory, "memory_bfloat16_gib": reduced})
            if memory > max(known.memory_gib, plan.budget.memory_gib):
                log.warning(
                    "%s needs about %.1f GiB as edited, more than the %.1f GiB planned for",
                    item.name, memory, plan.budget.memory_gib,
                )  # fmt: skip
        updated.append(item)
    return plan.model_copy(update={"configurations": tuple(updated)})


def _owner(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "an unknown package"
