"""A configuration that fits a model to start from: grid, intensities, patch and network of it.

Filters know sizes in voxels and intensities as they were normalized, so these are the model's. What
belongs to the data (labels, loss, mirroring) stays the plan's own.
"""

from __future__ import annotations

from collections.abc import Sequence

from selfseg.records.augmentation import Augmentation
from selfseg.records.channels import match_channels
from selfseg.records.network import DualChannel, JointStreams, Network
from selfseg.records.plan import Configuration, Decision, Plan
from selfseg.records.preprocessing import (
    CTNormalization,
    FixedScale,
    NoNormalization,
    Normalization,
    Preprocessing,
)
from selfseg.records.serial import Triple
from selfseg.records.source import Adoption, SourceFacts

from .context import decide_context_augmentation
from .memory import both_estimates
from .training import decide_augmentation
from .width import decide_batch

# Voxels beyond these ratios of the model's show structures at a size that it has not seen.
FINEST_RATIO, COARSEST_RATIO = 0.5, 2.0
ABSOLUTE = (CTNormalization, FixedScale, NoNormalization)  # in which a number means the same always


def adopt(plan: Plan, source: SourceFacts) -> Adoption:
    """Return the plan's configuration of the model's name with the model's sizes, or why not.

    Args:
        plan: As it would be without the model.
        source: The model.
    """
    theirs = source.configuration.model_copy(
        update={"network": _alone(source.configuration.network)}
    )
    own = next((item for item in plan.configurations if item.name == theirs.name), None)
    if own is None:
        names = ", ".join(item.name for item in plan.configurations)
        return Adoption(refusals=(f"the plan has no {theirs.name} (it has {names})",))
    refusals = tuple(_refusals(own, theirs))
    if refusals:
        return Adoption(refusals=refusals)
    normalization, reasons = _normalization(plan, own, source)
    preprocessing = theirs.preprocessing.model_copy(update={"normalization": normalization})
    batch, batch_reason = _batch(plan, own, theirs)
    memory, memory_bfloat16 = _memory(plan, own, theirs, batch)
    if memory > plan.budget.memory_gib:
        text = f"a step of its patch and network needs {memory:.1f} GiB, the budget is"
        return Adoption(refusals=(f"{text} {plan.budget.memory_gib:g} GiB",))
    augmentation = _augmentation(own, preprocessing, theirs.patch)
    mirrored = {"mirror_axes": augmentation.mirror_axes}
    made = own.model_copy(
        update={
            "preprocessing": preprocessing,
            "median_shape": _median_shape(own, preprocessing),
            "patch": theirs.patch,
            "batch": batch,
            "memory_gib": memory,
            "memory_bfloat16_gib": memory_bfloat16,
            "network": theirs.network,
            "augmentation": augmentation,
            "inference": own.inference.model_copy(update=mirrored),
        }
    )
    decisions = _decisions(own, made, source, reasons, batch_reason)
    return Adoption(configuration=made, decisions=decisions)


def _alone(network: Network) -> Network:
    """Return a network without streams for a second data set: of these the weights know nothing."""
    if isinstance(network, DualChannel) and isinstance(network.variant, JointStreams):
        return network.backbone
    return network


def _refusals(own: Configuration, theirs: Configuration) -> list[str]:
    """Return why a model's grid cannot be that of the data."""
    if theirs.previous_stage is not None:
        return [f"it is the second stage of a cascade, after {theirs.previous_stage}"]
    here, there = own.preprocessing, theirs.preprocessing
    if there.spacing_mm[0] is None and here.axes[0] != there.axes[0]:
        slices = ("ZYX"[here.axes[0]], "ZYX"[there.axes[0]])
        return [f"the slices of the data run along {slices[0]}, its own along {slices[1]}"]
    return [
        f"voxels along {'ZYX'[axis]} are {ratio:.2g} times its {spacing:.3g} mm (limits "
        f"{FINEST_RATIO:g} and {COARSEST_RATIO:g})"
        for axis, ratio, spacing in zip(
            there.axes, _ratios(own, theirs), there.spacing_mm, strict=True
        )
        if spacing is not None and not FINEST_RATIO <= ratio <= COARSEST_RATIO
    ]


def _ratios(own: Configuration, theirs: Configuration) -> Triple:
    """Return spacings of the data over the model's, in its order of axes."""
    here, there = own.preprocessing, theirs.preprocessing
    ratios = []
    for axis, its in zip(there.axes, there.spacing_mm, strict=True):
        mine = here.spacing_mm[here.axes.index(axis)]
        ratios.append(1.0 if mine is None or its is None else mine / its)
    return (ratios[0], ratios[1], ratios[2])


def _normalization(
    plan: Plan, own: Configuration, source: SourceFacts
) -> tuple[tuple[Normalization, ...], tuple[str, ...]]:
    """Return the normalization of each channel, and why it is the model's or not."""
    theirs = source.configuration.preprocessing.normalization
    chosen: list[Normalization] = []
    reasons = []
    matches = match_channels(source.channels, plan.channels)
    for name, mine, at in zip(plan.channels, own.preprocessing.normalization, matches, strict=True):
        if at is None:
            chosen.append(mine)
            reasons.append(f"{name!r} is no channel of the model: its own")
        elif isinstance(theirs[at], ABSOLUTE) and theirs[at].kind != mine.kind:
            chosen.append(mine)
            reasons.append(
                f"{name!r} is not on the scale of {source.channels[at]!r} ({theirs[at].kind}): "
                "its own"
            )
        else:
            chosen.append(theirs[at])
            reasons.append(f"{name!r} as the model's {source.channels[at]!r}")
    return tuple(chosen), tuple(reasons)


def _memory(
    plan: Plan, own: Configuration, theirs: Configuration, batch: int
) -> tuple[float, float | None]:
    """Return the memory of a step, in GiB, and that on a CPU in bfloat16."""
    return both_estimates(
        theirs.network,
        theirs.patch,
        batch,
        channels=plan.input_channels(own),
        classes=plan.targets.outputs,
        budget=plan.budget,
    )


def _batch(plan: Plan, own: Configuration, theirs: Configuration) -> tuple[int, str]:
    """Return the batch, and a reason where it is not the model's."""
    batch, reasons = decide_batch(own.name, theirs.batch, theirs.patch, plan.budget.device)
    limit = plan.budget.memory_gib
    fitting = [n for n in range(batch, 0, -1) if _memory(plan, own, theirs, n)[0] <= limit]
    if fitting and fitting[0] < batch:
        reasons = (*reasons, f"{plan.budget.memory_gib:g} GiB hold {fitting[0]}")
    batch = next(iter(fitting), 1)
    return batch, "; ".join(reasons)


def _median_shape(own: Configuration, preprocessing: Preprocessing) -> Triple:
    """Return the median shape at another spacing, in another order of axes."""
    here = own.preprocessing
    sizes = []
    for axis, spacing in zip(preprocessing.axes, preprocessing.spacing_mm, strict=True):
        at = here.axes.index(axis)
        mine = here.spacing_mm[at]
        scale = 1.0 if mine is None or spacing is None else mine / spacing
        sizes.append(max(1.0, float(round(own.median_shape[at] * scale))))
    return (sizes[0], sizes[1], sizes[2])


def _augmentation(
    own: Configuration, preprocessing: Preprocessing, patch: tuple[int, ...]
) -> Augmentation:
    """Return the augmentation for another patch, mirroring the same anatomical axes."""
    dropped = 3 - len(patch)
    here, there = own.preprocessing.axes[dropped:], preprocessing.axes[dropped:]
    mirrored = {here[axis] for axis in own.augmentation.mirror_axes}
    axes = tuple(axis for axis, canonical in enumerate(there) if canonical in mirrored)
    if own.name == "2.5d":
        return decide_context_augmentation(patch, axes)[0]
    return decide_augmentation(own.name, patch, axes)[0]


def _decisions(
    own: Configuration,
    made: Configuration,
    source: SourceFacts,
    normalization: Sequence[str],
    batch_reason: str,
) -> tuple[Decision, ...]:
    """Return a decision for every value that is the model's, with the plan's own beside it."""
    title, changed = source.model.title, []
    rows = (
        ("preprocessing.spacing_mm", _spacing, "filters know structures at this size"),
        ("preprocessing.normalization", _kinds, "; ".join(normalization)),
        ("preprocessing.orientation", _orientation, "filters know structures this way round"),
        ("patch", _sizes, "as it was trained"),
        ("batch", lambda item: str(item.batch), batch_reason or "as it was trained"),
        ("network", _network, "its weights fit no other one"),
    )
    for path, shown, because in rows:
        former = shown(own)
        if shown is _orientation and shown(made) == former:
            continue  # nobody would expect anything else
        changed.append(
            Decision(
                rule="init",
                subject=f"configurations.{own.name}.{path}",
                value=shown(made),
                because=f"to start from {title}: {because}",
                alternatives=(former,) if former != shown(made) else (),
            )
        )
    return tuple(changed)


def _spacing(item: Configuration) -> str:
    values = item.preprocessing.spacing_mm
    shown = "×".join("own" if value is None else f"{value:.4g}" for value in values)
    return f"{shown} mm, axes {''.join('ZYX'[axis] for axis in item.preprocessing.axes)}"


def _orientation(item: Configuration) -> str:
    return item.preprocessing.orientation


def _kinds(item: Configuration) -> str:
    return ", ".join(
        f"ct [{n.lower:.4g}, {n.upper:.4g}], {n.mean:.4g} ± {n.std:.4g}"
        if isinstance(n, CTNormalization)
        else n.kind
        for n in item.preprocessing.normalization
    )


def _sizes(item: Configuration) -> str:
    return "×".join(map(str, item.patch))


def _network(item: Configuration) -> str:
    return f"{item.network.kind}, features {', '.join(map(str, item.network.features))}"
