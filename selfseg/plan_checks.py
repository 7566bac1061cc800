"""Whether a plan, perhaps edited by hand, can be executed: everything that is wrong, at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

from selfseg.errors import PlanError
from selfseg.loss_checks import loss_complaints
from selfseg.records.network import (
    DSN3D,
    ContextUNet,
    DualChannel,
    PlainNetwork,
    TwoBranch,
    UNet,
)
from selfseg.records.plan import Configuration, Plan
from selfseg.records.preprocessing import CTNormalization, PercentileNormalization
from selfseg.stage_checks import stage_complaints
from selfseg.words import counted

MEND_PLAN = "Mend these values in plan.json, or make the plan again."
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


def check_plan(plan: Plan, *, remedy: str = MEND_PLAN) -> None:
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
    complaints += stage_complaints(plan)
    complaints += _target_complaints(plan)
    complaints += _idea_complaints(plan)
    if complaints:
        raise PlanError(
            f"plan of {plan.dataset} cannot be executed: {'; '.join(complaints)}",
            remedy=remedy,
        )


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
        (
            given == channels,
            f"preprocessing.normalization: {given} for {counted(channels, 'channel')}",
        ),
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
    """Yield labels and regions that do not go together, and what losses ask of them."""
    values = [label.value for label in plan.labels]
    if not values or min(values) < 1 or len(set(values)) < len(values):
        yield f"labels: values {values}, must be different and positive"
    if plan.ignore is not None and (plan.ignore < 1 or plan.ignore in values):
        yield f"ignore: {plan.ignore}, must be positive and no label's value"
    for index, region in enumerate(plan.regions):
        unknown = sorted({*region.values, region.value} - set(values))
        if unknown or not region.values:
            yield f"regions.{index}: values {unknown or 'none'}, must be values of labels"
    unknown_names = sorted(set(plan.tubular) - set(plan.targets.names))
    if unknown_names:
        yield f"tubular: {', '.join(unknown_names)} is no label of this plan"
    unknown_names = sorted(set(plan.shapes.labels) - set(plan.targets.names))
    if unknown_names:
        yield f"shapes.labels: {', '.join(unknown_names)} is no label of this plan"
    for item in plan.configurations:
        for complaint in loss_complaints(item, plan.targets):
            yield f"configurations.{item.name}.loss.{complaint}"
        if item.preprocessing.orientation != "canonical" and plan.shape_labels(item):
            yield (
                f"configurations.{item.name}.preprocessing.orientation: "
                f"{item.preprocessing.orientation}, must be canonical for shape models"
            )


def _idea_complaints(plan: Plan) -> Iterator[str]:
    """Yield nominated ideas that a race could not tell apart, or judge."""
    pairs = [(idea.configuration, idea.name) for idea in plan.nominated]
    for configuration, name in sorted({pair for pair in pairs if pairs.count(pair) > 1}):
        yield f"nominated: two ideas of {configuration} are named {name!r}"
    stages = [item.name for item in plan.configurations if item.previous_stage is not None]
    for idea in plan.nominated:
        if unknown := sorted(set(idea.labels) - set(plan.targets.names)):
            found, known = ", ".join(unknown), ", ".join(plan.targets.names)
            yield f"nominated.{idea.name}.labels: {found}, must be some of {known}"
        place = f"nominated.{idea.name}.borrows"
        if idea.borrows and plan.auxiliary is None:
            yield f"{place}: no data set: plan with --auxiliary"
        if idea.borrows and idea.configuration in stages:
            yield f"{place}: {idea.configuration} has a previous stage, and cannot borrow"


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
    if isinstance(item.network, DSN3D):
        return _dsn3d_complaints(item.network, item.patch)
    if isinstance(item.network, TwoBranch):
        return _two_branch_complaints(item.network, item.patch)
    if isinstance(item.network, DualChannel):
        return _plain_complaints(item.network.backbone, item.patch)
    return _plain_complaints(item.network, item.patch)


def _plain_complaints(network: PlainNetwork, patch: Sequence[int]) -> list[str]:
    dims = len(patch)
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
    return _stride_complaints(network.strides, patch)


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


def _dsn3d_complaints(network: DSN3D, patch: Sequence[int]) -> list[str]:
    stages = len(network.features)
    if stages != len(network.convs) or stages < 2 or min(*network.features, *network.convs) < 1:
        return ["network: features and convs must be as many, at least 2 stages, and at least 1"]
    if len(patch) != 3:
        return [f"network: dsn3d is for patches of three axes, not {list(patch)}"]
    return _stride_complaints(((1, 1, 1), *((2, 2, 2),) * (stages - 1)), patch)


def _two_branch_complaints(network: TwoBranch, patch: Sequence[int]) -> list[str]:
    stages = (*network.encoder, *network.decoder, network.branch)
    layers = [layer for stage in stages for layer in stage]
    ups = len(network.ups)
    if ups < 1 or ups != len(network.encoder) - 1 or ups != len(network.decoder) + 1:
        return ["network: must have one of ups less than encoder stages, and one of decoder less"]
    if not all(stages) or any(size < 1 or not size % 2 or width < 1 for size, width in layers):
        return ["network: every stage must have layers, with odd kernels and widths of at least 1"]
    if len(patch) != 2:
        return [f"network: two_branch is for patches of two axes, not {list(patch)}"]
    return _stride_complaints(network.strides, patch)


def _stride_complaints(strides: Sequence[Sequence[int]], patch: Sequence[int]) -> list[str]:
    divisors = [prod(stride[axis] for stride in strides) for axis in range(len(patch))]
    if any(n < 1 or n % d for n, d in zip(patch, divisors, strict=True)):
        return [f"patch: {list(patch)} must be multiples of the total stride {divisors}"]
    return []
