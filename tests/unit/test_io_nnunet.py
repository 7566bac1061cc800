"""Models of nnU-Net: names of weights, options, and what is refused, against plain torch."""

from __future__ import annotations

import copy
import io
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import nnunetmodel
import numpy as np
import pytest
import torch

from selfseg.errors import ModelError
from selfseg.io.nnunet import read_checkpoint
from selfseg.io.nnunet.checkpoint import check_archive, read_checkpoints
from selfseg.io.nnunet.names import rename, tensor_names
from selfseg.io.nnunet.network import network_options
from selfseg.io.nnunet.plan import Described, Source, make_plan
from selfseg.io.nnunet.plans import Architecture, NnPlans, find_configuration
from selfseg.networks.build import build_network
from selfseg.networks.weights import load_weights
from selfseg.plan_checks import check_plan
from selfseg.records.dataset import Label, Region, Targets
from selfseg.records.network import ResidualUNet, UNet
from selfseg.records.plan import Configuration
from selfseg.records.preprocessing import (
    CTNormalization,
    FixedScale,
    MinMax,
    NoNormalization,
    ZScore,
)

TARGETS = Targets(labels=(Label(name="core", value=1), Label(name="rim", value=2)))
NETWORKS = [(dims, residual) for dims in (2, 3) for residual in (False, True)]


def options_of(arguments: dict[str, Any], kind: str = "") -> UNet | ResidualUNet:
    residual = "n_blocks_per_stage" in arguments
    kind = kind or ("ResidualEncoderUNet" if residual else "PlainConvUNet")
    architecture = Architecture.model_validate(
        {"network_class_name": f"somewhere.{kind}", "arch_kwargs": arguments}
    )
    return network_options(architecture, source="plans.json")


@pytest.mark.parametrize(("dims", "residual"), NETWORKS)
def test_networks_give_the_same_at_every_resolution(dims: int, residual: bool) -> None:
    torch.manual_seed(0)
    arguments = nnunetmodel.network_kwargs(dims=dims, residual=residual)
    theirs = nnunetmodel.NnUNet(arguments, channels=2, outputs=3)
    options = options_of(arguments)
    ours = build_network(options, channels=2, outputs=3)
    ours.load_state_dict(rename(theirs.state_dict(), options, source="x"))
    image = torch.randn(2, 2, *(8, 16, 12)[:dims])
    ours.train()
    with torch.no_grad():
        pairs = list(zip(ours(image), theirs(image), strict=True))
    assert len(pairs) == 2
    for found, expected in pairs:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    ours.eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(image)[0], pairs[0][1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("dims", "residual"), NETWORKS)
def test_every_tensor_is_used_once(dims: int, residual: bool) -> None:
    arguments = nnunetmodel.network_kwargs(dims=dims, residual=residual)
    theirs = nnunetmodel.NnUNet(arguments, channels=1, outputs=3)
    names = tensor_names(options_of(arguments))
    assert len(set(names.values())) == len(names)
    state = theirs.state_dict()
    used = {state[name].data_ptr() for name in names.values()}
    assert used == {tensor.data_ptr() for tensor in state.values()}
    assert len(used) == len(names)


def test_missing_surplus_and_changed_weights_are_refused() -> None:
    arguments = nnunetmodel.network_kwargs()
    options = options_of(arguments)
    state = nnunetmodel.NnUNet(arguments, channels=1, outputs=3).state_dict()
    short = {k: v for k, v in state.items() if k != "decoder.seg_layers.0.bias"}
    with pytest.raises(ModelError, match=r"missing: decoder\.seg_layers\.0\.bias"):
        rename(short, options, source="x")
    more = {**state, "encoder.stages.0.0.convs.0.norm.running_mean": torch.zeros(4)}
    with pytest.raises(ModelError, match=r"do not know: .*running_mean"):
        rename(more, options, source="x")
    double = "decoder.encoder.stages.1.0.convs.0.all_modules.1.weight"
    changed = {**state, double: state[double] + 1}
    with pytest.raises(ModelError, match=r"should be the same differ: decoder\.encoder"):
        rename(changed, options, source="x")


@pytest.mark.parametrize(
    ("changes", "kind", "finding"),
    [
        ({"norm_op": "torch.nn.modules.batchnorm.BatchNorm3d"}, "", "norm .*BatchNorm3d"),
        ({"norm_op_kwargs": {"eps": 1e-3, "affine": True}}, "", "eps"),
        ({"nonlin": "torch.nn.ReLU"}, "", "activation"),
        ({"nonlin_kwargs": {"negative_slope": 0.2}}, "", "slope 0.2"),
        ({"conv_bias": False}, "", "without bias"),
        ({"n_stages": 4}, "", "other lengths"),
        ({}, "MedNeXt", "network MedNeXt"),
        ({"n_conv_per_stage": None}, "", "no number of convolutions"),
    ],
)
def test_networks_that_compute_otherwise_are_refused(
    changes: dict[str, Any], kind: str, finding: str
) -> None:
    with pytest.raises(ModelError, match=finding):
        options_of({**nnunetmodel.network_kwargs(), **changes}, kind)


def read(configurations: dict[str, Any], **more: Any) -> NnPlans:
    return NnPlans.model_validate({**nnunetmodel.plans(configurations), **more})


def toy(**changes: Any) -> dict[str, Any]:
    arguments = nnunetmodel.network_kwargs()
    made = nnunetmodel.configuration(arguments, spacing=[2.0, 1.0, 1.0], patch=[8, 16, 16])
    return {**made, **changes}


def made(
    plans: NnPlans, name: str = "3d_fullres", targets: Targets = TARGETS, channels: int = 1
) -> Configuration:
    described = Described(tuple(f"channel {i}" for i in range(channels)), targets)
    plan = make_plan([Source(Path("folder"), plans, name, (0, 1, 2))], described)
    return plan.configurations[0]


def test_the_plan_says_what_nnunet_does() -> None:
    plans = read({"3d_fullres": toy()}, transpose_forward=[1, 0, 2])
    item = made(plans)
    assert item.preprocessing.axes == (1, 0, 2)
    assert item.preprocessing.spacing_mm == (2.0, 1.0, 1.0)
    assert item.preprocessing.orientation == "stored"
    assert item.preprocessing.normalization == (ZScore(inside_mask=True),)
    assert item.inference.window_weight == "float16"
    assert item.inference.precision == "fine"
    assert item.inference.mirror_axes == (0, 1, 2)
    assert isinstance(item.network, UNet)
    assert item.network.convs_encoder == (2, 1, 2)
    assert item.network.convs_decoder == (2, 1)  # from full resolution; nnU-Net's from the deepest
    whole = make_plan([Source(Path(), plans, "3d_fullres", ())], Described(("MRI",), TARGETS))
    check_plan(whole)
    assert whole.decisions


def test_a_2d_configuration_keeps_the_spacing_across() -> None:
    arguments = nnunetmodel.network_kwargs(dims=2)
    flat = nnunetmodel.configuration(arguments, spacing=[1.0, 1.5], patch=[16, 32])
    item = made(read({"2d": flat}), "2d")
    assert item.preprocessing.spacing_mm == (None, 1.0, 1.5)
    assert item.median_shape == (12.0, 16.0, 32.0)
    assert item.inference.mirror_axes == (0, 1)


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ("CTNormalization", CTNormalization(lower=1.0, upper=120.0, mean=50.0, std=20.0)),
        ("NoNormalization", NoNormalization()),
        ("RescaleTo01Normalization", MinMax()),
        ("RGBTo01Normalization", FixedScale(divisor=255.0)),
        ("ZScoreNormalization", ZScore(inside_mask=True)),
    ],
)
def test_normalizations(scheme: str, expected: object) -> None:
    item = made(read({"3d_fullres": toy(normalization_schemes=[scheme])}))
    assert item.preprocessing.normalization == (expected,)


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"normalization_schemes": ["MyNormalization"]}, "MyNormalization is not known"),
        ({"preprocessor_name": "Mine"}, "preprocessor Mine"),
        ({"resampling_fn_data": "resample_torch_fornnunet"}, "resampling by resample_"),
        ({"use_mask_for_norm": [True, False]}, None),
        ({"normalization_schemes": ["ZScoreNormalization"] * 2}, "2 normalizations for 1"),
        (
            {"resampling_fn_data_kwargs": {**nnunetmodel.resampling(3), "force_separate_z": True}},
            "coarse axis",
        ),
        ({"resampling_fn_data_kwargs": {**nnunetmodel.resampling(3), "order_z": 1}}, "one rule"),
        ({"resampling_fn_seg_kwargs": nnunetmodel.resampling(3)}, "orders 3, 3, 1"),
        ({"resampling_fn_seg_kwargs": {"order": 1, "mode": "x"}}, "mode: Extra inputs"),
        ({"spacing": "far"}, "spacing: "),
    ],
)
def test_preprocessing_that_differs_is_refused(
    changes: dict[str, Any], finding: str | None
) -> None:
    with pytest.raises(ModelError, match=finding):
        made(read({"3d_fullres": toy(**changes)}))


def test_no_axis_is_separate_where_the_plans_forbid_it() -> None:
    never = {
        f"resampling_fn_{part}_kwargs": {**nnunetmodel.resampling(order), "force_separate_z": False}
        for part, order in (("data", 3), ("seg", 1), ("probabilities", 1))
    }
    ratio = made(read({"3d_fullres": toy(**never)})).preprocessing.resampling.separate_axis_ratio
    assert ratio > 1e6
    assert made(read({"3d_fullres": toy()})).preprocessing.resampling.separate_axis_ratio == 3.0


def test_readers_decide_which_way_axes_run() -> None:
    turned = read({"3d_fullres": toy()}, image_reader_writer="NibabelIOWithReorient")
    assert made(turned).preprocessing.orientation == "ras"
    with pytest.raises(ModelError, match="MyReader, which is not known"):
        made(read({"3d_fullres": toy()}, image_reader_writer="MyReader"))
    with pytest.raises(ModelError, match="labels by MyLabels"):
        made(read({"3d_fullres": toy()}, label_manager="MyLabels"))


def test_configurations_inherit_and_cascades_name_their_stage() -> None:
    configurations = {
        "3d_lowres": toy(spacing=[4.0, 2.0, 2.0]),
        "3d_fullres": toy(),
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    }
    item = made(read(configurations), "3d_cascade_fullres")
    assert item.name == "3d_cascade"
    assert item.previous_stage == "3d_lowres"
    assert item.preprocessing.spacing_mm == (2.0, 1.0, 1.0)
    circle = read({"a": {"inherits_from": "b"}, "b": {"inherits_from": "a"}})
    with pytest.raises(ModelError, match="inherits from itself"):
        find_configuration(circle, "a", source="plans.json")
    with pytest.raises(ModelError, match="'mine' has no counterpart"):
        made(read({"mine": toy()}), "mine")


@pytest.mark.parametrize("kind", ["PlainConvUNet", "ResidualEncoderUNet"])
def test_plans_of_the_first_releases_mean_the_same(kind: str) -> None:
    residual = kind == "ResidualEncoderUNet"
    arguments = nnunetmodel.network_kwargs(residual=residual)
    new = toy(architecture={"network_class_name": kind, "arch_kwargs": arguments})
    new["architecture"]["arch_kwargs"] = {**arguments, "features_per_stage": [4, 8, 10]}
    old = {key: value for key, value in new.items() if key != "architecture"}
    old |= {
        "UNet_class_name": kind,
        "UNet_base_num_features": 4,
        "unet_max_num_features": 10,
        "conv_kernel_sizes": arguments["kernel_sizes"],
        "pool_op_kernel_sizes": arguments["strides"],
        "n_conv_per_stage_encoder": arguments.get("n_conv_per_stage", [1, 3, 2]),
        "n_conv_per_stage_decoder": arguments["n_conv_per_stage_decoder"],
        "num_pool_per_axis": [1, 2, 2],
    }
    assert made(read({"3d_fullres": old})) == made(read({"3d_fullres": new}))
    del old["conv_kernel_sizes"]
    with pytest.raises(ModelError, match="neither an 'architecture' nor"):
        made(read({"3d_fullres": old}))


def test_regions_are_trained_with_sigmoids() -> None:
    regions = (Region(name="whole", values=(1, 2), value=1),)
    item = made(
        read({"3d_fullres": toy()}), targets=TARGETS.model_copy(update={"regions": regions})
    )
    assert [term.kind for term in item.loss.terms] == ["dice", "binary_cross_entropy"]


def write(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def toy_checkpoint() -> dict[str, Any]:
    network = nnunetmodel.NnUNet(nnunetmodel.network_kwargs(), channels=1, outputs=3)
    return nnunetmodel.checkpoint(network, "3d_fullres", fold="3", mirror=(0, 2))


def test_a_checkpoint_is_read_with_numbers_of_numpy(
    tmp_path: Path, toy_checkpoint: dict[str, Any]
) -> None:
    wrapped = copy.copy(toy_checkpoint)
    state = wrapped["network_weights"]
    wrapped["network_weights"] = {f"module._orig_mod.{k}": v.half() for k, v in state.items()}
    sources = [write(tmp_path / "a.pth", toy_checkpoint), write(tmp_path / "b.pth", wrapped)]
    plain, other = read_checkpoints(sources, tmp_path / "out")
    assert plain.facts.trainer == "nnUNetTrainer"
    assert (plain.facts.configuration, plain.facts.fold) == ("3d_fullres", "3")
    assert (plain.facts.epochs, plain.facts.mirror_axes) == (7, (0, 2))
    tensors = load_weights(plain.tensors)
    assert tensors.keys() == state.keys() == load_weights(other.tensors).keys()
    assert all(torch.equal(tensors[name], state[name]) for name in state)


def test_a_package_that_is_not_installed_is_found_by_the_reader(
    tmp_path: Path, toy_checkpoint: dict[str, Any]
) -> None:
    package = Path(read_checkpoint.__file__).parents[2]
    copied = shutil.copytree(package, tmp_path / "selfseg", ignore=lambda *_: ["__pycache__"])
    reader = copied / "io" / "nnunet" / "read_checkpoint.py"
    text = reader.read_text(encoding="utf-8")
    reader.write_text(text.replace("trainer=", 'trainer="copied " + '), encoding="utf-8")
    for name in ("json", "typing", "torch"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not the one of the library')")
    code = (
        "import sys, typing; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "import selfseg; del sys.path[0]\n"
        "from selfseg.io.nnunet.checkpoint import read_checkpoints\n"
        "print(read_checkpoints([Path(sys.argv[2])], Path(sys.argv[3]))[0].facts.trainer)"
    )
    source = write(tmp_path / "a.pth", toy_checkpoint)
    command = [sys.executable, "-c", code, *map(str, (tmp_path, source, tmp_path / "out"))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "copied nnUNetTrainer"


class Command:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def test_a_checkpoint_that_would_run_code_is_refused(
    tmp_path: Path, toy_checkpoint: dict[str, Any]
) -> None:
    mark = tmp_path / "ran"
    for index, command in enumerate(
        (Command(os.system, f"touch {mark}"), Command(eval, f"open({str(mark)!r}, 'w')"))
    ):
        path = write(tmp_path / f"{index}.pth", {**toy_checkpoint, "logging": command})
        with pytest.raises(ModelError, match=r"neither tensor nor plain value \(.+\)") as caught:
            read_checkpoints([path], tmp_path / "out")
        assert path.name in caught.value.message
        assert "add_safe_globals" not in caught.value.message, "torch's advice to allow it"
        assert caught.value.remedy
    assert not mark.exists()
    assert not (tmp_path / "out").exists()


def test_a_damaged_checkpoint_is_to_be_copied_again(
    tmp_path: Path, toy_checkpoint: dict[str, Any]
) -> None:
    path = write(tmp_path / "x.pth", toy_checkpoint)
    whole = path.read_bytes()
    place = whole.index(b"data.pkl") + 80
    path.write_bytes(whole[:place] + bytes(40) + whole[place + 40 :])
    with pytest.raises(ModelError, match="is damaged, or holds") as caught:
        read_checkpoints([path], tmp_path / "out")
    assert "Copy or download it again" in caught.value.remedy


ONE = torch.ones(1)


def weights(value: object) -> dict[str, Any]:
    return {"init_args": {"configuration": "2d"}, "network_weights": {"a": value}}


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        ([1, 2], "holds a list"),
        ({"state_dict": {}}, "has no 'init_args'"),
        ({"init_args": {"configuration": "2d"}}, "has no 'network_weights'"),
        (weights(1), "no dense tensor"),
        (weights(torch.eye(2).to_sparse()), "no dense tensor"),
        (weights(torch.tensor(float("nan"))), "no finite numbers"),
        (weights(torch.zeros(1).expand(1 << 20)), "larger than what is stored"),
        (weights(torch.tensor(1 + 2j)), "has complex numbers"),
        (
            weights(torch.zeros(1)) | {"network_weights": dict.fromkeys(("module.a", "a"), ONE)},
            "has two network_weights of the name 'a'",
        ),
    ],
)
def test_other_files_of_torch_are_refused(tmp_path: Path, content: object, finding: str) -> None:
    with pytest.raises(ModelError, match=finding):
        read_checkpoints([write(tmp_path / "x.pth", content)], tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"current_epoch": None}, r"has a NoneType in 'current_epoch'"),
        ({"current_epoch": -1}, "has -1 in 'current_epoch'"),
        ({"current_epoch": 7.5}, "has 7.5 in"),
        ({"current_epoch": True}, "has True in"),
        ({"current_epoch": torch.zeros(2)}, "has a Tensor in"),
        ({"inference_allowed_mirroring_axes": 3}, "has 3 as .*, no axes"),
        ({"inference_allowed_mirroring_axes": torch.zeros(2)}, "has a Tensor as .*, no axes"),
        ({"inference_allowed_mirroring_axes": ("a",)}, "has 'a' in"),
        ({"inference_allowed_mirroring_axes": (0, 3)}, "has 3 in"),
        ({"trainer_name": torch.zeros(2)}, "has a Tensor as 'trainer_name'"),
        ({"init_args": {"configuration": "2d", "fold": [1]}}, "has a list as 'fold'"),
    ],
)
def test_facts_that_nnunet_does_not_write_are_refused(
    changes: dict[str, Any], finding: str
) -> None:
    with pytest.raises(read_checkpoint.RefusedError, match=finding):
        read_checkpoint.facts_of({**weights(torch.zeros(1)), **changes})


def test_odd_facts_are_told_by_the_reader_and_kinds_of_numbers_are_not(
    tmp_path: Path, toy_checkpoint: dict[str, Any]
) -> None:
    odd = write(tmp_path / "odd.pth", {**toy_checkpoint, "current_epoch": None})
    with pytest.raises(ModelError, match=r"odd\.pth: has a NoneType in 'current_epoch'") as caught:
        read_checkpoints([odd], tmp_path / "out")
    assert "Ask who made it" in caught.value.remedy
    facts = read_checkpoint.facts_of(
        {
            **toy_checkpoint,
            "current_epoch": np.int64(7),
            "inference_allowed_mirroring_axes": [np.int32(1), 2],
        }
    )
    assert (facts.epochs, facts.mirror_axes) == (7, (1, 2))
    without = {**toy_checkpoint, "inference_allowed_mirroring_axes": None}
    assert read_checkpoint.facts_of(without).mirror_axes == ()


def test_one_stored_tensor_under_many_names_does_not_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tensor = torch.zeros(1 << 10)
    content = {"network_weights": {str(index): tensor for index in range(100)}}
    assert len(read_checkpoint.tensors_of(content)) == 100
    monkeypatch.setattr(read_checkpoint, "LARGEST_GIB", 300 / 2**20)
    with pytest.raises(read_checkpoint.RefusedError, match=r"more than .* GiB of weights"):
        read_checkpoint.tensors_of(content)


def test_damaged_and_swollen_archives_are_refused_unread(tmp_path: Path) -> None:
    whole = io.BytesIO()
    torch.save({"a": torch.zeros(1000)}, whole)
    path = tmp_path / "x.pth"
    path.write_bytes(whole.getvalue()[:-60])
    with pytest.raises(ModelError, match="no checkpoint of torch") as cut:
        check_archive(path)
    assert "Copy or download it again" in cut.value.remedy
    with pytest.raises(ModelError, match="no checkpoint of torch"):
        check_archive(tmp_path / "absent.pth")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(1 << 20))
    with pytest.raises(ModelError, match="compressed entries"):
        check_archive(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data/0", b"1")
    with pytest.raises(ModelError, match="has 0 pickles"):
        check_archive(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", bytes(65 << 20))
    with pytest.raises(ModelError, match="more than 64 MiB"):
        check_archive(path)


def test_the_reading_process_opens_no_connection_and_starts_no_program() -> None:
    code = (
        "import sys, socket, subprocess, os\n"
        "from selfseg.io.nnunet.read_checkpoint import seal\n"
        "sys.addaudithook(seal)\n"
        "tries = (lambda: socket.socket(), lambda: subprocess.run(['true']),\n"
        "         lambda: os.system('true'), lambda: os.fork())\n"
        "for attempt in tries:\n"
        "    try:\n"
        "        attempt()\n"
        "    except PermissionError:\n"
        "        print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["refused"] * 4
