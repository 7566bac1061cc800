"""Model folders as nnU-Net v2 writes them, with small networks in plain torch, and its prediction.

Written from the description of nnU-Net's networks and inference, independent of the project's own:
state dicts have nnU-Net's names, every layer twice and the encoder once more inside the decoder.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import nnunetroute
import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

Kwargs = dict[str, Any]
CONVS: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
NORMS: dict[int, Any] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
UPS: dict[int, Any] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
POOLS: dict[int, Any] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}


class Layer(nn.Module):
    def __init__(
        self, before: int, after: int, kernel: Any, stride: Any, *, bias: bool = True,
        act: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        dims = len(kernel)
        padding = [(k - 1) // 2 for k in kernel]
        self.conv = CONVS[dims](before, after, kernel, stride, padding, bias=bias)
        self.norm = NORMS[dims](after, eps=1e-5, affine=True)
        self.all_modules = nn.Sequential(self.conv, self.norm, *([nn.LeakyReLU()] if act else []))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.all_modules(x)
        return out


class Stack(nn.Module):
    def __init__(self, count: int, before: int, after: int, kernel: Any, stride: Any) -> None:
        super().__init__()
        ones = [1] * len(kernel)
        self.convs = nn.Sequential(
            *(
                Layer(after if i else before, after, kernel, ones if i else stride)
                for i in range(count)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.convs(x)
        return out


class Residual(nn.Module):
    def __init__(self, before: int, after: int, kernel: Any, stride: Any) -> None:
        super().__init__()
        ones = [1] * len(kernel)
        self.conv1 = Layer(before, after, kernel, stride)
        self.conv2 = Layer(after, after, kernel, ones, act=False)
        skip: list[nn.Module] = []
        if max(stride) > 1:
            skip.append(POOLS[len(kernel)](stride, stride))
        if before != after:
            skip.append(Layer(before, after, ones, ones, bias=False, act=False))
        if skip:
            self.skip = nn.Sequential(*skip)

    def forward(self, x: Tensor) -> Tensor:
        kept = self.skip(x) if hasattr(self, "skip") else x
        return nn.functional.leaky_relu(self.conv2(self.conv1(x)) + kept, 0.01)


class Blocks(nn.Module):
    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.blocks(x)
        return out


class Encoder(nn.Module):
    def __init__(self, arguments: Kwargs, channels: int) -> None:
        super().__init__()
        features = arguments["features_per_stage"]
        rows = list(zip(arguments["kernel_sizes"], arguments["strides"], strict=True))
        stages: list[nn.Module] = []
        if "n_blocks_per_stage" in arguments:
            self.stem = Stack(1, channels, features[0], rows[0][0], [1] * len(rows[0][0]))
            for i, (kernel, stride) in enumerate(rows):
                blocks = [Residual(features[max(i - 1, 0)], features[i], kernel, stride)]
                blocks += [
                    Residual(features[i], features[i], kernel, [1] * len(kernel))
                    for _ in range(arguments["n_blocks_per_stage"][i] - 1)
                ]
                stages.append(Blocks(*blocks))
        else:
            for i, (kernel, stride) in enumerate(rows):
                before = features[i - 1] if i else channels
                count = arguments["n_conv_per_stage"][i]
                stages.append(nn.Sequential(Stack(count, before, features[i], kernel, stride)))
        self.stages = nn.Sequential(*stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        if hasattr(self, "stem"):
            x = self.stem(x)
        skips = []
        for stage in self.stages:
            x = stage(x)
            skips.append(x)
        return skips


class Decoder(nn.Module):
    def __init__(self, encoder: Encoder, arguments: Kwargs, outputs: int) -> None:
        super().__init__()
        self.encoder = encoder
        features, strides = arguments["features_per_stage"], arguments["strides"]
        kernels, dims = arguments["kernel_sizes"], len(arguments["kernel_sizes"][0])
        stages, ups, heads = [], [], []
        for depth in range(1, len(features)):
            below, here = features[-depth], features[-depth - 1]
            count = arguments["n_conv_per_stage_decoder"][depth - 1]
            ups.append(UPS[dims](below, here, strides[-depth], strides[-depth]))
            stages.append(Stack(count, 2 * here, here, kernels[-depth - 1], [1] * dims))
            heads.append(CONVS[dims](here, outputs, 1))
        self.stages = nn.ModuleList(stages)
        self.transpconvs = nn.ModuleList(ups)
        self.seg_layers = nn.ModuleList(heads)

    def forward(self, skips: list[Tensor]) -> list[Tensor]:
        x, outputs = skips[-1], []
        for i, stage in enumerate(self.stages):
            x = stage(torch.cat((self.transpconvs[i](x), skips[-i - 2]), 1))
            outputs.append(self.seg_layers[i](x))
        return outputs[::-1]


class NnUNet(nn.Module):
    """A U-Net with nnU-Net's layout of weights; all outputs, full resolution first."""

    def __init__(self, arguments: Kwargs, channels: int, outputs: int) -> None:
        super().__init__()
        self.encoder = Encoder(arguments, channels)
        self.decoder = Decoder(self.encoder, arguments, outputs)
        for parameter in self.parameters():  # norms and biases that matter
            if parameter.dim() == 1:
                nn.init.normal_(parameter, 0.5, 0.5)

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs: list[Tensor] = self.decoder(self.encoder(x))
        return outputs


def network_kwargs(*, dims: int = 3, residual: bool = False) -> Kwargs:
    """Return arguments of a network of three stages with odd kernels and strides."""
    full, thin = [3] * dims, [1, *[3] * (dims - 1)]
    blocks = {"n_blocks_per_stage": [1, 3, 2]} if residual else {"n_conv_per_stage": [2, 1, 2]}
    return {
        "n_stages": 3,
        "features_per_stage": [4, 6, 6],
        "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
        "kernel_sizes": [thin, full, full],
        "strides": [[1] * dims, [1, *[2] * (dims - 1)], [2] * dims],
        **blocks,
        "n_conv_per_stage_decoder": [1, 2],
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }


def resampling(order: int, *, is_seg: bool = False) -> Kwargs:
    return {"is_seg": is_seg, "order": order, "order_z": 0, "force_separate_z": None}


def configuration(arguments: Kwargs, *, spacing: list[float], patch: list[int]) -> Kwargs:
    """Return a configuration of a plans.json with one z-scored channel."""
    residual = "n_blocks_per_stage" in arguments
    kind = "ResidualEncoderUNet" if residual else "PlainConvUNet"
    name = "resample_data_or_seg_to_shape"
    return {
        "data_identifier": "x",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": patch,
        "median_image_size_in_voxels": [float(n) for n in patch],
        "spacing": spacing,
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [True],
        "resampling_fn_data": name,
        "resampling_fn_seg": name,
        "resampling_fn_probabilities": name,
        "resampling_fn_data_kwargs": resampling(3),
        "resampling_fn_seg_kwargs": resampling(1, is_seg=True),
        "resampling_fn_probabilities_kwargs": resampling(1),
        "architecture": {
            "network_class_name": f"dynamic_network_architectures.architectures.unet.{kind}",
            "arch_kwargs": arguments,
            "_kw_requires_import": [],
        },
        "batch_dice": False,
    }


def plans(configurations: Kwargs, *, transpose: tuple[int, int, int] = (0, 1, 2)) -> Kwargs:
    """Return a plans.json."""
    return {
        "dataset_name": "Dataset001_Toy",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": [12, 16, 16],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": list(transpose),
        "transpose_backward": np.argsort(transpose).tolist(),
        "configurations": configurations,
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": {
                "mean": 50.0, "std": 20.0, "median": 48.0, "min": -10.0, "max": 200.0,
                "percentile_00_5": 1.0, "percentile_99_5": 120.0,
            }
        },
    }  # fmt: skip


DATASET: Kwargs = {
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "core": 1, "rim": 2},
    "numTraining": 3,
    "file_ending": ".nii.gz",
}


def checkpoint(
    network: nn.Module, name: str, *, fold: str = "0", mirror: Any = (0, 1, 2)
) -> Kwargs:
    """Return what nnU-Net stores, numpy's scalars included."""
    return {
        "network_weights": network.state_dict(),
        "optimizer_state": {"state": {}, "param_groups": [{"lr": np.float64(0.01)}]},
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float32(0.5), np.float64(0.6)]},
        "_best_ema": np.float64(0.6),
        "current_epoch": 7,
        "init_args": {
            "plans": {},
            "configuration": name,
            "fold": fold if fold == "all" else int(fold),
            "dataset_json": DATASET,
            "device": torch.device("cpu"),
        },
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": mirror,
    }


def write_model(
    folder: Path,
    network: nn.Module,
    described: Kwargs,
    name: str = "3d_fullres",
    *,
    folds: tuple[str, ...] = ("0",),
    dataset: Kwargs = DATASET,
    mirror: Any = (0, 1, 2),
) -> Path:
    """Write a model folder; every fold has the same weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(described))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    for fold in folds:
        (folder / f"fold_{fold}").mkdir()
        content = checkpoint(network, name, fold=fold, mirror=mirror)
        torch.save(content, folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder


def predict(
    network: nn.Module,
    image: np.ndarray,
    spacing: tuple[float, ...],
    described: Kwargs,
    name: str = "3d_fullres",
    *,
    mirror: tuple[int, ...] = (),
) -> np.ndarray:
    """Return nnU-Net's label map (z, y, x) of an image (z, y, x), arrays as stored.

    With z-score inside the nonzero mask; in float32 and float64 where nnU-Net has float16 sums.
    """
    item = described["configurations"][name]
    forward = described["transpose_forward"]
    working = image.transpose(forward).astype(np.float32)
    before = tuple(spacing[axis] for axis in forward)
    mask = ndimage.binary_fill_holes(working != 0)
    box = tuple(slice(int(w.min()), int(w.max()) + 1) for w in np.nonzero(mask))
    cropped, inside = working[box], mask[box]
    normalized = np.zeros_like(cropped)
    values = cropped[inside]
    normalized[inside] = (values - values.mean()) / max(values.std(), 1e-8)
    after = (before[0], *item["spacing"]) if len(item["spacing"]) == 2 else tuple(item["spacing"])
    shape = tuple(round(a / b * n) for a, b, n in zip(before, after, cropped.shape, strict=True))
    assert len(shape) == 3
    resampled = nnunetroute.resample(normalized, shape, _coarse(before, after), 3)
    patch = [1] * (3 - len(item["patch_size"])) + item["patch_size"]
    logits = _slide(network, resampled.astype(np.float32), patch, mirror, len(item["patch_size"]))
    scores = np.stack(
        [nnunetroute.resample(k, cropped.shape, _coarse(after, before), 1) for k in logits]
    )
    labels = np.zeros(working.shape, np.uint8)
    labels[box] = scores.argmax(0)
    return labels.transpose(np.argsort(forward))


def _coarse(spacing: tuple[float, ...], new: tuple[float, ...]) -> int | None:
    for values in (spacing, new):
        if max(values) / min(values) > 3:
            axes = [i for i in range(3) if values[i] == max(values)]
            return axes[0] if len(axes) == 1 else None
    return None


def _slide(
    network: nn.Module, image: np.ndarray, patch: list[int], mirror: tuple[int, ...], dims: int
) -> np.ndarray:
    missing = [max(p - n, 0) for p, n in zip(patch, image.shape, strict=True)]
    padded = np.pad(image, [(m // 2, m - m // 2) for m in missing])
    impulse = np.zeros(patch)
    impulse[tuple(p // 2 for p in patch)] = 1
    weight = ndimage.gaussian_filter(impulse, [p / 8 for p in patch], mode="constant")
    weight = (weight / weight.max() * 10).astype(np.float16)
    weight[weight == 0] = weight[weight != 0].min()
    total: np.ndarray | float = 0.0
    places = itertools.product(*(_starts(n, p) for n, p in zip(padded.shape, patch, strict=True)))
    sums = np.zeros(padded.shape)
    for place in places:
        box = tuple(slice(s, s + p) for s, p in zip(place, patch, strict=True))
        logits = _mirrored(network, padded[box], mirror, dims)
        if isinstance(total, float):
            total = np.zeros((len(logits), *padded.shape))
        total[(slice(None), *box)] += logits * weight.astype(float)
        sums[box] += weight
    assert not isinstance(total, float)
    inner = tuple(slice(m // 2, m // 2 + n) for m, n in zip(missing, image.shape, strict=True))
    result: np.ndarray = (total / sums)[(slice(None), *inner)]
    return result


def _mirrored(
    network: nn.Module, window: np.ndarray, mirror: tuple[int, ...], dims: int
) -> np.ndarray:
    x = torch.from_numpy(window if dims == 3 else window[0])[None, None]
    subsets = itertools.chain.from_iterable(
        itertools.combinations(mirror, n) for n in range(len(mirror) + 1)
    )
    found = []
    with torch.no_grad():
        for subset in subsets:
            flips = [axis + 2 for axis in subset]
            found.append(network(x.flip(flips))[0].flip(flips)[0])
    mean = torch.stack(found).mean(0).numpy()
    return np.asarray(mean if dims == 3 else mean[:, None])


def _starts(size: int, patch: int) -> list[int]:
    count = int(np.ceil((size - patch) / max(patch * 0.5, 1.0))) + 1
    distance = (size - patch) / (count - 1) if count > 1 else 0.0
    return [int(np.round(distance * i)) for i in range(count)]
