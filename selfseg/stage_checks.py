"""Whether the stages of a plan fit together: previous stages, crops, second sources."""

from __future__ import annotations

from collections.abc import Iterator

from selfseg.records.loss import SIMPLE
from selfseg.records.network import DualChannel, GatedEncoders, PlainNetwork, plain_part
from selfseg.records.plan import Configuration, Plan


def stage_complaints(plan: Plan) -> Iterator[str]:
    """Yield what is wrong with configurations that build on others, each with its place."""
    yield from _auxiliary_complaints(plan)
    known = {item.name: item for item in plan.configurations}
    labels = {label.name for label in plan.labels}
    for item in plan.configurations:
        place = f"configurations.{item.name}"
        if (name := item.previous_stage) is not None:
            if name not in known:
                yield f"{place}.previous_stage: no configuration {name!r}"
            elif known[name].previous_stage is not None:
                yield f"{place}.previous_stage: {name} must not have one itself"
        for complaint in (*_crop_complaints(item, labels), *_variant_complaints(item, plan)):
            yield f"{place}.{complaint}"


def _auxiliary_complaints(plan: Plan) -> Iterator[str]:
    """Yield configurations that cannot be trained on a second data set as well."""
    for item in plan.configurations:
        if plan.borrowed(item) is None:
            continue
        if item.batch < 2:
            yield f"configurations.{item.name}.batch: must be at least 2, some of it auxiliary"
        if not any(term.kind in SIMPLE for term in item.loss.terms):
            yield (
                f"configurations.{item.name}.loss.terms: none of {', '.join(SIMPLE)}, which the "
                "auxiliary data set is judged by"
            )


def _crop_complaints(item: Configuration, labels: set[str]) -> Iterator[str]:
    if item.crop is None:
        return
    if item.previous_stage is None:
        yield "crop: there is no previous stage to crop around"
    if len(item.patch) != 3 or item.context:
        yield "crop: needs a network of three axes"
    if item.crop.labels is not None:
        wrong = sorted(set(item.crop.labels) - labels)
        if wrong or not item.crop.labels:
            known = ", ".join(sorted(labels))
            yield f"crop.labels: {', '.join(wrong) or 'none'}, must be some of {known}"


def _variant_complaints(item: Configuration, plan: Plan) -> Iterator[str]:
    """Yield second sources that are not there, or that do not fit."""
    if not isinstance(item.network, DualChannel):
        return
    variant, place = item.network.variant, "network.variant"
    alone = plan.auxiliary is None or item.previous_stage is not None
    if variant.kind == "joint_streams" and alone:
        yield f"{place}: joint_streams needs a data set: plan with --auxiliary"
    if variant.kind == "joint_streams" and variant.own_heads and item.loss.encoder_heads:
        yield f"{place}.own_heads: the loss has encoder_heads, which are common"
    if variant.kind == "second_input" and item.previous_stage is None:
        yield f"{place}: second_input needs a previous_stage"
    if not isinstance(variant, GatedEncoders):
        return
    there = plan.input_channels(item)
    if variant.channels is not None and variant.channels > there:
        yield f"{place}.channels: {variant.channels}, the network has {there} input channels"
    if variant.source == "previous_stage":
        yield from _source_complaints(item, plan)


def _source_complaints(item: Configuration, plan: Plan) -> Iterator[str]:
    place, images = "network.variant", len(plan.channels)
    stages = [other for other in plan.configurations if other.name == item.previous_stage]
    if not stages:
        yield f"{place}.source: there is no previous stage to start from"
        return
    assert isinstance(item.network, DualChannel)
    assert isinstance(item.network.variant, GatedEncoders)
    if (item.network.variant.channels or plan.input_channels(item)) != images:
        yield f"{place}.channels: must be {images}, as many as the previous stage sees"
    former = plain_part(stages[0].network)
    if former is None or not same_encoder(former, item.network.backbone):
        yield (
            f"{place}.source: the encoder of {stages[0].name} must have the features, kernels "
            "and blocks of the backbone"
        )


def same_encoder(one: PlainNetwork, other: PlainNetwork) -> bool:
    """Tell whether two encoders can have the same weights: strides move none."""
    alike = (one.kind, one.features, one.kernels) == (other.kind, other.features, other.kernels)
    if one.kind == "unet" and other.kind == "unet":
        return alike and one.convs_encoder == other.convs_encoder
    if one.kind == "residual_unet" and other.kind == "residual_unet":
        return alike and one.blocks_encoder == other.blocks_encoder
    return False
