"""The parts of nnU-Net's plans.json that decide how its networks predict."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from selfseg.errors import ModelError

LARGEST_FILE = 64 << 20
WHOLE = "Restore the file that was written when the model was trained."
Axes = tuple[int, ...]


class Foreign(BaseModel):
    """A record of nnU-Net's; what it holds besides is not needed."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class ResamplingKwargs(BaseModel):
    """Options of `resample_data_or_seg_to_shape`; others would change results and are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    is_seg: bool = False
    order: int = 3
    order_z: int = 0
    force_separate_z: bool | None = None
    separate_z_anisotropy_threshold: float = 3.0


class NetworkKwargs(BaseModel):
    """Arguments of nnU-Net's network classes; unknown ones are refused: they change the network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_stages: int
    features_per_stage: tuple[int, ...]
    conv_op: str
    kernel_sizes: tuple[Axes, ...]
    strides: tuple[Axes, ...]
    n_conv_per_stage: tuple[int, ...] | int | None = None
    n_blocks_per_stage: tuple[int, ...] | int | None = None
    n_conv_per_stage_decoder: tuple[int, ...] | int
    conv_bias: bool = False
    norm_op: str
    norm_op_kwargs: dict[str, Any]
    dropout_op: None = None
    dropout_op_kwargs: dict[str, Any] | None = None
    nonlin: str
    nonlin_kwargs: dict[str, Any] | None = None


class Architecture(Foreign):
    """A network class and its arguments."""

    network_class_name: str
    arch_kwargs: NetworkKwargs


class NnConfiguration(Foreign):
    """One configuration, inherited keys filled in."""

    patch_size: Axes
    batch_size: int
    median_image_size_in_voxels: tuple[float, ...]
    spacing: tuple[float, ...]
    normalization_schemes: tuple[str, ...]
    use_mask_for_norm: tuple[bool, ...]
    preprocessor_name: str
    resampling_fn_data: str
    resampling_fn_seg: str
    resampling_fn_probabilities: str
    resampling_fn_data_kwargs: ResamplingKwargs
    resampling_fn_seg_kwargs: ResamplingKwargs
    resampling_fn_probabilities_kwargs: ResamplingKwargs
    architecture: Architecture
    batch_dice: bool = False
    previous_stage: str | None = None


class Intensities(Foreign):
    """Foreground intensities of one channel over the training cases."""

    mean: float
    std: float
    percentile_00_5: float
    percentile_99_5: float


class NnPlans(Foreign):
    """A plans.json."""

    dataset_name: str
    plans_name: str
    image_reader_writer: str
    transpose_forward: tuple[int, int, int]
    original_median_shape_after_transp: tuple[float, ...]
    experiment_planner_used: str = ""
    label_manager: str = "LabelManager"
    foreground_intensity_properties_per_channel: dict[str, Intensities]
    configurations: dict[str, dict[str, Any]]


RecordT = TypeVar("RecordT", bound=BaseModel)


def read_plans(path: Path) -> NnPlans:
    """Read a plans.json.

    Raises:
        ModelError: It is missing, no JSON, or lacks what prediction needs.
    """
    return _validated(NnPlans, read_json(path), f"{path}")


def read_json(path: Path) -> Mapping[str, Any]:
    """Read a JSON object.

    Raises:
        ModelError: It is missing, too large, or no JSON object.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ModelError(f"{path}: larger than {LARGEST_FILE >> 20} MiB", remedy=WHOLE)
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read ({error})", remedy=WHOLE) from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: not a JSON object", remedy=WHOLE)
    return content


def find_configuration(plans: NnPlans, name: str, *, source: str) -> NnConfiguration:
    """Return a configuration with what it inherits, in today's form.

    Raises:
        ModelError: There is none of that name, it inherits from itself, or lacks something.
    """
    content = _inherited(plans, name, source)
    if "architecture" not in content:
        content = {**content, "architecture": flat_architecture(content, source=source)}
    return _validated(NnConfiguration, content, f"{source}: configurations.{name}")


def _inherited(plans: NnPlans, name: str, source: str) -> dict[str, Any]:
    content: dict[str, Any] = {}
    seen: list[str] = []
    wanted: str | None = name
    while wanted is not None:
        if wanted not in plans.configurations or wanted in seen:
            finding = "inherits from itself" if wanted in seen else "is not there"
            raise ModelError(f"{source}: configuration {wanted!r} {finding}", remedy=WHOLE)
        seen.append(wanted)
        own = plans.configurations[wanted]
        content = {**own, **content}
        wanted = own.get("inherits_from")
    return content


FLAT_BLOCKS: dict[str, Literal["n_conv_per_stage", "n_blocks_per_stage"]] = {
    "PlainConvUNet": "n_conv_per_stage",
    "ResidualEncoderUNet": "n_blocks_per_stage",
}


def flat_architecture(content: Mapping[str, Any], *, source: str) -> dict[str, Any]:
    """Return the network of a configuration of the first releases, which had no `architecture`.

    There the width doubles from stage to stage up to a limit, and all else was fixed.

    Raises:
        ModelError: Keys are missing, or the network is none of the two that there were.
    """
    try:
        kind = str(content["UNet_class_name"])
        kernels, strides = content["conv_kernel_sizes"], content["pool_op_kernel_sizes"]
        base, limit = content["UNet_base_num_features"], content["unet_max_num_features"]
        dims = len(kernels[0])
        arguments = {
            "n_stages": len(kernels),
            "features_per_stage": [min(base * 2**i, limit) for i in range(len(kernels))],
            "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
            "kernel_sizes": kernels,
            "strides": strides,
            FLAT_BLOCKS[kind]: content["n_conv_per_stage_encoder"],
            "n_conv_per_stage_decoder": content["n_conv_per_stage_decoder"],
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        }
    except (KeyError, TypeError, IndexError) as error:
        raise ModelError(
            f"{source}: neither an 'architecture' nor the keys of the first releases ({error})",
            remedy=WHOLE,
        ) from error
    return {"network_class_name": kind, "arch_kwargs": arguments}


def _validated(kind: type[RecordT], content: Mapping[str, Any], source: str) -> RecordT:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        findings = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:6]
        )
        raise ModelError(f"{source}: {findings}", remedy=WHOLE) from error
