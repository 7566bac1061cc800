"""Find a planner, run it, and edit its plan on the user's word."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, runtime_checkable

from selfseg.errors import PlanError, PlannerError, RecordError
from selfseg.records import serial
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


def edit_plan(plan: Plan, settings: Sequence[str]) -> Plan:
    """Apply `PATH=VALUE` settings in order; each is the user's decision, in place of former ones.

    A path goes by keys and, in lists, by `name` or index: `configurations.3d_fullres.batch=4`.
    VALUE is JSON, or else plain text.

    Raises:
        PlanError: No such place, or the value does not fit there.
    """
    for setting in settings:
        path, separator, text = setting.partition("=")
        if not separator or not path:
            raise PlanError(f"--set {setting}: no '='", remedy="Write --set PATH=VALUE.")
        plan = _set(plan, path.strip(), text.strip())
    return plan


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
            memory = float(f"{decider.memory_gib(plan, item):.3g}")
            reduced = None
            if item.memory_bfloat16_gib is not None:
                reduced = float(f"{decider.memory_gib(plan, item, bfloat16=True):.3g}")
            item = item.model_copy(update={"memory_gib": memory, "memory_bfloat16_gib": reduced})
            if memory > max(known.memory_gib, plan.budget.memory_gib):
                log.warning(
                    "%s needs about %.1f GiB as edited, more than the %.1f GiB planned for",
                    item.name, memory, plan.budget.memory_gib,
                )  # fmt: skip
        updated.append(item)
    return plan.model_copy(update={"configurations": tuple(updated)})


def _set(plan: Plan, path: str, text: str) -> Plan:
    content: Any = plan.model_dump(mode="json")
    place, key, subject = _find(content, path)
    former, place[key] = place[key], _value(text)
    try:
        edited = serial.decode(Plan, json.dumps(content), source=f"--set {path}={text}")
    except RecordError as error:
        raise PlanError(
            error.message, remedy="Give a value of the kind that stands there."
        ) from error
    decision = Decision(
        rule="user",
        subject=subject,
        value=text,
        because="set by the user with --set",
        alternatives=(json.dumps(former),),
    )
    return edited.superseded_by(decision)


def _find(content: Any, path: str) -> tuple[Any, str | int, str]:
    """Return the container that a path ends in, the key or index in it, and the path by names."""
    place, passed, rest = content, "", path
    while True:
        step = _first_step(place, rest)
        key = _key(place, step, passed.rstrip(".") or "the plan")
        shown = place[key]["name"] if isinstance(key, int) and _has_name(place[key]) else step
        if rest == step:
            return place, key, f"{passed}{shown}"
        place, passed, rest = place[key], f"{passed}{shown}.", rest[len(step) + 1 :]


def _first_step(place: Any, path: str) -> str:
    """Return the name of an item that the path begins with (`2.5d`), else up to the first dot."""
    items = place if isinstance(place, list) else []
    names = [item["name"] for item in items if _has_name(item)]
    begun = [name for name in names if f"{path}.".startswith(f"{name}.")]
    return max(begun, key=len, default=path.partition(".")[0])


def _key(place: Any, step: str, where: str) -> str | int:
    """Return the key or index of a step, or say what stands there instead."""
    if isinstance(place, dict):
        if step in place:
            return step
        offered = list(place)
    elif isinstance(place, list):
        named: dict[str, int] = {
            item["name"]: index for index, item in enumerate(place) if _has_name(item)
        }
        if step in named:
            return named[step]
        if step.isdecimal() and int(step) < len(place):
            return int(step)
        offered = list(named) or [str(index) for index in range(len(place))]
    else:
        offered = []
    there = ", ".join(map(str, offered)) or "a single value"
    raise PlanError(f"--set: no {step!r} in {where}", remedy=f"There is: {there}.")


def _has_name(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("name"), str)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _owner(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "an unknown package"
