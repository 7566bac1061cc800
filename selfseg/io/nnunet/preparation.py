"""nnU-Net's preprocessing as options of ours, where ours computes the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from selfseg.errors import ModelError
from selfseg.io.nnunet.plans import Intensities, NnConfiguration, NnPlans, ResamplingKwargs
from selfseg.records.preprocessing import (
    CTNormalization,
    FixedScale,
    MinMax,
    NoNormalization,
    Normalization,
    Preprocessing,
    Resampling,
    ZScore,
)

Orientation = Literal["stored", "ras"]

READERS: Mapping[str, Orientation] = {
    "SimpleITKIO": "stored",
    "NibabelIO": "stored",
    "NaturalImage2DIO": "stored",
    "Tiff3DIO": "stored",
    "NibabelIOWithReorient": "ras",
    "SimpleITKIOWithReorient": "ras",
}
DEFAULT_RESAMPLING = "resample_data_or_seg_to_shape"
# A ratio that no spacing exceeds: no axis is ever separate.
NEVER_SEPARATE = 1e9
OWN = "Only what nnU-Net's default preprocessor does can run here."

Order = Literal[0, 1, 2, 3, 4, 5]
LowOrder = Literal[0, 1]


def orientation_of(plans: NnPlans, *, source: str) -> Orientation:
    """Return which way the axes of images run when nnU-Net's reader has read them.

    Raises:
        ModelError: The reader is none of nnU-Net's.
    """
    if plans.image_reader_writer not in READERS:
        raise ModelError(
            f"{source}: images were read by {plans.image_reader_writer}, which is not known",
            remedy=f"Models of these readers can run: {', '.join(READERS)}.",
        )
    return READERS[plans.image_reader_writer]


def preprocessing_options(
    plans: NnPlans, found: NnConfiguration, *, channels: int, source: str
) -> Preprocessing:
    """Return the options of the same preprocessing.

    Raises:
        ModelError: Something in it has no counterpart.
    """
    functions = {
        found.resampling_fn_data, found.resampling_fn_seg, found.resampling_fn_probabilities
    }  # fmt: skip
    findings = [
        text
        for wrong, text in (
            (
                found.preprocessor_name != "DefaultPreprocessor",
                f"preprocessor {found.preprocessor_name}",
            ),
            (functions != {DEFAULT_RESAMPLING}, f"resampling by {', '.join(sorted(functions))}"),
            (plans.label_manager != "LabelManager", f"labels by {plans.label_manager}"),
            (
                {len(found.normalization_schemes), len(found.use_mask_for_norm)} != {channels},
                f"{len(found.normalization_schemes)} normalizations for {channels} channels",
            ),
        )
        if wrong
    ]
    if findings:
        raise ModelError(f"{source}: {'; '.join(findings)}", remedy=OWN)
    spacing = found.spacing
    first, second, third = (None, *spacing) if len(spacing) == 2 else spacing
    assert second is not None
    assert third is not None
    return Preprocessing(
        axes=plans.transpose_forward,
        spacing_mm=(first, second, third),
        normalization=tuple(
            _normalization(plans, found, channel, source=source) for channel in range(channels)
        ),
        resampling=_resampling(found, source=source),
        orientation=orientation_of(plans, source=source),
    )


def _normalization(
    plans: NnPlans, found: NnConfiguration, channel: int, *, source: str
) -> Normalization:
    scheme = found.normalization_schemes[channel]
    match scheme:
        case "ZScoreNormalization":
            return ZScore(inside_mask=found.use_mask_for_norm[channel])
        case "CTNormalization":
            facts = _intensities(plans, channel, source=source)
            return CTNormalization(
                lower=facts.percentile_00_5,
                upper=facts.percentile_99_5,
                mean=facts.mean,
                std=facts.std,
            )
        case "NoNormalization":
            return NoNormalization()
        case "RescaleTo01Normalization":
            return MinMax()
        case "RGBTo01Normalization":
            return FixedScale(divisor=255.0)
        case _:
            raise ModelError(f"{source}: normalization {scheme} is not known", remedy=OWN)


def _intensities(plans: NnPlans, channel: int, *, source: str) -> Intensities:
    facts = plans.foreground_intensity_properties_per_channel.get(str(channel))
    if facts is None:
        raise ModelError(
            f"{source}: no foreground intensities of channel {channel}",
            remedy="Restore the plans.json that was written when the model was trained.",
        )
    return facts


def _resampling(found: NnConfiguration, *, source: str) -> Resampling:
    """Return the spline orders; what decides about a separate axis must be the same for all."""
    image, label, scores = (
        found.resampling_fn_data_kwargs,
        found.resampling_fn_seg_kwargs,
        found.resampling_fn_probabilities_kwargs,
    )
    rules = {(k.order_z, _separate_ratio(k)) for k in (image, label, scores)}
    orders = (
        image.order in get_args(Order)
        and label.order in get_args(LowOrder)
        and scores.order in get_args(LowOrder)
        and image.order_z in get_args(LowOrder)
    )
    if len(rules) > 1 or None in {ratio for _, ratio in rules} or not orders:
        raise ModelError(
            f"{source}: resampling with orders {image.order}, {label.order}, {scores.order} and "
            f"rules for a coarse axis {[_rule(k) for k in (image, label, scores)]}",
            remedy="Orders 0 to 5 of images, 0 or 1 of all else, and one rule for all can run.",
        )
    (order_z, ratio), *_ = rules
    return Resampling.model_validate(
        {
            "order_image": image.order,
            "order_label": label.order,
            "order_probabilities": scores.order,
            "order_separate": order_z,
            "separate_axis_ratio": ratio,
        }
    )


def _separate_ratio(options: ResamplingKwargs) -> float | None:
    """Return the ratio of spacings above which an axis is separate; None if it always is."""
    match options.force_separate_z:
        case None:
            return options.separate_z_anisotropy_threshold
        case False:
            return NEVER_SEPARATE
        case True:
            return None


def _rule(options: ResamplingKwargs) -> str:
    return f"order {options.order_z}, force_separate_z {options.force_separate_z}"
