"""Find a planner, run it, edit its plan on the user's word, check that a plan can be executed."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint, entry_points
from math import prod
from typing import Any, Protocol, runtime_checkable

from selfseg.errors import PlanError, PlannerError, RecordError
from selfseg.records import serial
from selfseg.records.dataset import Dataset, Splits
from selfseg.records.fingerprint import Fingerprint
from selfseg.records.loss import BinaryCrossEntropyTerm, CrossEntropyTerm
from selfseg.records.network import ContextUNet, UNet
from selfseg.records.plan import Budget, Configuration, Decision, Plan
from selfseg.records.preprocessing import CTNormalization, PercentileNormalization
from selfseg.records.run import Schedule, Speed, Training
from selfseg.records.selection import CandidateScore, Estimate, SelectionRules

log = logging.getLogger(__name__)

GROUP = "selfseg.planners"
# Limits of numbers, by the name of the field wherever it stands in a configuration.
POSITIVE = {
    "learning_rate", "epochs", "steps_per_epoch", "gradient_clip", "window_sigma", "divisor",
    "exponent", "separate_axis_ratio",
}  # fmt: skip
NOT_NEGATIVE = {
    "weight", "weight_decay", "smooth", "std", "rotation_degrees", "rotation_limit_degrees",
    "deep_supervision_decay",
}  # fmt: skip
BELOW_ONE = {"momentum", "average_decay", "warmup"}
SHARES = {"foreground_share", "validation_share", "previous_removal_share"}


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

    def memory_gib(self, plan: Plan, configuration: Configuration) -> float:
        """Estimate the memory of a training step, also of a configuration that a user edited."""
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
    """Apply `PATH=VALUE` settings in order; each is recorded as the user's decision.

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
            item = item.model_copy(update={"memory_gib": memory})
            if memory > max(known.memory_gib, plan.budget.memory_gib):
                log.warning(
                    "%s needs about %.1f GiB as edited, more than the %.1f GiB planned for",
                    item.name, memory, plan.budget.memory_gib,
                )  # fmt: skip
        updated.append(item)
    return plan.model_copy(update={"configurations": tuple(updated)})


def check_plan(plan: Plan) -> None:
    """Raise PlanError, with everything that is wrong, if a plan (edited by hand) cannot work."""
    complaints = [
        f"configurations.{item.name}.{complaint}"
        for item in plan.configurations
        for complaint in _complaints(item, len(plan.channels))
    ]
    names = [item.name for item in plan.configurations]
    if len(set(names)) < len(names):
        complaints.append(f"configurations: names are not unique: {', '.join(names)}")
    if not names:
        complaints.append("configurations: none")
    if len(set(plan.proposed)) < len(plan.proposed):
        complaints.append(f"proposed: {list(plan.proposed)}, must name each once")
    missing = [name for name in plan.proposed if name not in names]
    if missing:
        complaints.append(f"proposed: {', '.join(missing)} is no configuration of this plan")
    for item in plan.configurations:
        if item.name in plan.proposed and item.previous_stage not in (None, *plan.proposed):
            complaints.append(f"proposed: {item.name} needs {item.previous_stage} as well")
    complaints += _stage_complaints(plan)
    complaints += _target_complaints(plan)
    if complaints:
        raise PlanError(
            f"plan of {plan.dataset} cannot be executed: {'; '.join(complaints)}",
            remedy="Mend these values in plan.json, or make the plan again.",
        )


def _set(plan: Plan, path: str, text: str) -> Plan:
    content: Any = plan.model_dump(mode="json")
    place, key = _find(content, path)
    former, place[key] = place[key], _value(text)
    try:
        edited = serial.decode(Plan, json.dumps(content), source=f"--set {path}={text}")
    except RecordError as error:
        raise PlanError(
            error.message, remedy="Give a value of the kind that stands there."
        ) from error
    decision = Decision(
        rule="user",
        subject=path,
        value=text,
        because="set by the user with --set",
        alternatives=(json.dumps(former),),
    )
    return edited.model_copy(update={"decisions": (*edited.decisions, decision)})


def _find(content: Any, path: str) -> tuple[Any, str | int]:
    """Return the container that a path ends in, and the key or index in it."""
    place, passed, rest = content, "", path
    while True:
        step = _first_step(place, rest)
        key = _key(place, step, passed.rstrip(".") or "the plan")
        if rest == step:
            return place, key
        place, passed, rest = place[key], f"{passed}{step}.", rest[len(step) + 1 :]


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


def _complaints(item: Configuration, channels: int) -> list[str]:
    """Return what contradicts itself in one configuration."""
    dims = len(item.patch)
    if dims not in (2, 3):
        return [f"patch: {dims} axes, must be 2 or 3"]
    mirrored = {*item.augmentation.mirror_axes, *item.inference.mirror_axes}
    doubled = any(
        len(set(axes)) < len(axes)
        for axes in (item.augmentation.mirror_axes, item.inference.mirror_axes)
    )
    given, spacing = len(item.preprocessing.normalization), item.preprocessing.spacing_mm
    axes = list(item.preprocessing.axes)
    rules = (
        (item.batch >= 1, f"batch: {item.batch}, must be at least 1"),
        (given == channels, f"preprocessing.normalization: {given} for {channels} channels"),
        (all(s is None or s > 0 for s in spacing), "preprocessing.spacing_mm: must be positive"),
        (sorted(axes) == [0, 1, 2], f"preprocessing.axes: {axes} is no order of the axes"),
        (
            mirrored <= set(range(dims)),
            f"mirror_axes: {sorted(mirrored)}, there are 0 to {dims - 1}",
        ),
        (not doubled, "mirror_axes: an axis stands there twice"),
        (0 < item.inference.step <= 1, f"inference.step: {item.inference.step}, must be in (0, 1]"),
        (bool(item.loss.terms), "loss.terms: none"),
    )
    wrong = [text for fulfilled, text in rules if not fulfilled]
    return [
        *wrong,
        *_normalization_complaints(item),
        *_number_complaints(item),
        *_network_complaints(item),
    ]


def _target_complaints(plan: Plan) -> Iterator[str]:
    """Yield labels, regions and losses that do not go together."""
    values = [label.value for label in plan.labels]
    if not values or min(values) < 1 or len(set(values)) < len(values):
        yield f"labels: values {values}, must be different and positive"
    if plan.ignore is not None and (plan.ignore < 1 or plan.ignore in values):
        yield f"ignore: {plan.ignore}, must be positive and no label's value"
    for index, region in enumerate(plan.regions):
        unknown = sorted({*region.values, region.value} - set(values))
        if unknown or not region.values:
            yield f"regions.{index}: values {unknown or 'none'}, must be values of labels"
    for item in plan.configurations:
        wrong = CrossEntropyTerm if plan.regions else BinaryCrossEntropyTerm
        for index, term in enumerate(item.loss.terms):
            if isinstance(term, wrong):
                yield (
                    f"configurations.{item.name}.loss.terms.{index}: {term.kind} is for "
                    f"{'labels that exclude each other' if plan.regions else 'regions'}"
                )


def _stage_complaints(plan: Plan) -> Iterator[str]:
    """Yield previous stages that are not planned, or need a previous stage themselves."""
    known = {item.name: item for item in plan.configurations}
    for item in plan.configurations:
        if (name := item.previous_stage) is None:
            continue
        if name not in known:
            yield f"configurations.{item.name}.previous_stage: no configuration {name!r}"
        elif known[name].previous_stage is not None:
            yield f"configurations.{item.name}.previous_stage: {name} must not have one itself"


def _normalization_complaints(item: Configuration) -> Iterator[str]:
    for index, value in enumerate(item.preprocessing.normalization):
        match value:
            case CTNormalization() if value.lower > value.upper:
                found = f"lower {value.lower:g}, upper {value.upper:g}"
            case PercentileNormalization() if not (
                0 <= value.lower_percent < value.upper_percent <= 100
            ):
                found = f"{value.lower_percent:g} to {value.upper_percent:g} %"
            case _:
                continue
        yield f"preprocessing.normalization.{index}: {found} is no range"


def _number_complaints(item: Configuration) -> Iterator[str]:
    """Yield numbers outside their limits, chances that are none, ranges from high to low."""
    for path, value in _leaves(item.model_dump(mode="json")):
        if limit := _exceeded(path.rpartition(".")[2], value):
            yield f"{path}: {value:g}, must be {limit}"
    for name, value in item.augmentation:
        if name != "mirror_axes" and isinstance(value, tuple) and not 0 <= value[0] <= value[1]:
            yield f"augmentation.{name}: {list(value)}, must be [low, high] and not negative"


def _exceeded(name: str, value: float) -> str:
    """Return the limit that a value of this field does not keep, or nothing."""
    if name in POSITIVE and value <= 0:
        return "positive"
    if name in NOT_NEGATIVE and value < 0:
        return "0 or more"
    if name in BELOW_ONE and not 0 <= value < 1:
        return "in [0, 1)"
    is_share = name in SHARES or name.endswith("_p")
    return "in [0, 1]" if is_share and not 0 <= value <= 1 else ""


def _leaves(content: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Yield path and value of every number."""
    if isinstance(content, dict | list):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(content, int | float):
        yield path, content


def _network_complaints(item: Configuration) -> list[str]:
    if isinstance(item.network, ContextUNet):
        return _context_complaints(item.network, item.patch)
    network, dims = item.network, len(item.patch)
    blocks = network.convs_encoder if isinstance(network, UNet) else network.blocks_encoder
    stages = len(network.features)
    lengths = {
        "kernels": len(network.kernels),
        "strides": len(network.strides),
        "encoder blocks": len(blocks),
        "decoder convolutions + 1": len(network.convs_decoder) + 1,
    }
    if stages < 2 or any(length != stages for length in lengths.values()):
        found = ", ".join(f"{length} {name}" for name, length in lengths.items())
        return [f"network: {stages} features, but {found}; must agree and be at least 2"]
    if any(len(axes) != dims for axes in (*network.kernels, *network.strides)):
        return [f"network: kernels and strides must have {dims} axes like the patch"]
    if min(*network.features, *blocks, *network.convs_decoder) < 1:
        return ["network: features, blocks and convolutions must be at least 1"]
    if network.strides[0] != (1,) * dims or min(min(axes) for axes in network.strides) < 1:
        return ["network.strides: must be at least 1, and all 1 at full resolution"]
    if any(size < 1 or size % 2 == 0 for axes in network.kernels for size in axes):
        return ["network.kernels: must be odd"]
    return _stride_complaints(network.strides, item.patch)


def _context_complaints(network: ContextUNet, patch: Sequence[int]) -> list[str]:
    stages = len(network.features)
    counts = (*network.features, *network.blocks_encoder, *network.blocks_decoder)
    rules = (
        (
            stages >= 2
            and stages == len(network.strides) == len(network.blocks_encoder)
            and stages == len(network.blocks_decoder) + 1,
            f"{stages} features, but {len(network.strides)} strides, "
            f"{len(network.blocks_encoder)} encoder and {len(network.blocks_decoder)} decoder "
            "blocks; must agree (one decoder stage less) and be at least 2",
        ),
        (network.slices % 2 == 1, f"slices {network.slices}, must be odd"),
        (
            len(patch) == 3 and patch[0] == network.slices,
            f"{network.slices} slices, but the patch is {list(patch)}",
        ),
        (min((1, *counts)) >= 1, "features and blocks must be at least 1"),
        (min((1, *network.aspp_rates)) >= 1, "aspp_rates must be at least 1"),
        (network.aspp_features >= 1, "aspp_features must be at least 1"),
        (0 <= network.dropout < 1, f"dropout {network.dropout:g}, must be in [0, 1)"),
        (1 <= network.supervised < max(stages, 2), f"supervised {network.supervised}"),
        (
            network.strides[:1] == ((1, 1, 1),)
            and all(len(s) == 3 and s[0] == 1 and min(s) >= 1 for s in network.strides),
            "strides must be [1, y, x], and all 1 at full resolution",
        ),
    )
    wrong = [f"network: {text}" for fulfilled, text in rules if not fulfilled]
    return wrong or _stride_complaints(network.strides, patch)


def _stride_complaints(strides: Sequence[Sequence[int]], patch: Sequence[int]) -> list[str]:
    divisors = [prod(stride[axis] for stride in strides) for axis in range(len(patch))]
    if any(n < 1 or n % d for n, d in zip(patch, divisors, strict=True)):
        return [f"patch: {list(patch)} must be multiples of the total stride {divisors}"]
    return []


def _owner(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "an unknown package"
