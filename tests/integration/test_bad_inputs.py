"""Bad inputs: each gives one clear message, exit code 2, and leaves nothing half-written."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (its users' name for it)
from commandline import TINY_NETWORK, write_tiny_dataset

from selfseg.cli import main as command_line
from selfseg.networks.weights import load_weights, save_weights

Damage = Callable[[Path], object]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """Run the command in this process; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["selfseg", *map(str, arguments)])
    try:
        command_line.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_dataset(tmp_path_factory.mktemp("pristine") / "data")


@pytest.fixture
def data(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "data"))


def image_path(data: Path, case: int = 1, channel: int = 0) -> Path:
    return data / "imagesTr" / f"case_{case:03d}_{channel:04d}.nii.gz"


def label_path(data: Path, case: int = 1) -> Path:
    return data / "labelsTr" / f"case_{case:03d}.nii.gz"


def described(**changes: Any) -> Damage:
    """Change entries of dataset.json; None removes them."""

    def damage(data: Path) -> None:
        path = data / "dataset.json"
        content = {**json.loads(path.read_text()), **changes}
        kept = {key: value for key, value in content.items() if value is not None}
        path.write_text(json.dumps(kept))

    return damage


def rewritten(path_of: Callable[[Path], Path], change: Callable[[Any], Any]) -> Damage:
    """Read an image, change it (in place or by returning another), write it again."""

    def damage(data: Path) -> None:
        path = path_of(data)
        image = sitk.ReadImage(str(path))
        changed = change(image)
        sitk.WriteImage(image if changed is None else changed, str(path))

    return damage


def voxels(change: Callable[[np.ndarray], Any]) -> Callable[[Any], Any]:
    """Change the array of an image; the grid stays."""

    def of_image(image: Any) -> Any:
        array = sitk.GetArrayFromImage(image).astype(np.float64)
        changed = change(array)
        result = sitk.GetImageFromArray(array if changed is None else changed)
        result.CopyInformation(image)
        return result

    return of_image


def put(value: float) -> Callable[[np.ndarray], None]:
    def change(array: np.ndarray) -> None:
        array[2, 3, 4] = value

    return change


def empty(array: np.ndarray) -> np.ndarray:
    return array * 0


def nothing_annotated(data: Path) -> None:
    """Declare a value for what is not annotated, and give it to all voxels of case 1."""
    described(labels={"background": 0, "organ": 1, "lesion": 2, "ignore": 7})(data)
    rewritten(label_path, voxels(lambda array: array * 0 + 7))(data)


def truncate(path_of: Callable[[Path], Path]) -> Damage:
    def damage(data: Path) -> None:
        path = path_of(data)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return damage


def second_channel(make: Callable[[Any], Any] | None) -> Damage:
    """Declare two channels; write the second ones, changed for case 1; None leaves it out there."""

    def damage(data: Path) -> None:
        described(channel_names={"0": "CT", "1": "PET"})(data)
        for case in range(5):
            if case == 1 and make is None:
                continue
            image = sitk.ReadImage(str(image_path(data, case)))
            changed = make(image) if case == 1 and make else image
            sitk.WriteImage(changed or image, str(image_path(data, case, 1)))

    return damage


def without_images(data: Path) -> None:
    for path in (data / "imagesTr").iterdir():
        path.unlink()


def all_empty(data: Path) -> None:
    for case in range(5):
        rewritten(partial(label_path, case=case), voxels(empty))(data)


def crop(image: Any) -> Any:
    return image[:, :, 1:]


def spacing(image: Any) -> None:
    image.SetSpacing((3.0, 3.0, 5.0))


def origin(image: Any) -> None:
    image.SetOrigin([v + 20 for v in image.GetOrigin()])


def direction(image: Any) -> None:
    image.SetDirection((0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1))


DATASETS: dict[str, tuple[Damage, tuple[str, ...]]] = {
    "no dataset.json": (lambda d: (d / "dataset.json").unlink(), ("dataset.json",)),
    "broken dataset.json": (
        lambda d: (d / "dataset.json").write_text('{"labels": '),
        ("dataset.json",),
    ),
    "no labels": (described(labels=None), ("dataset.json", "labels")),
    "no channels": (described(channel_names=None), ("dataset.json", "channel_names")),
    "inverted channel names": (described(channel_names={"CT": 0}), ("dataset.json", "CT")),
    "label value is text": (
        described(labels={"background": 0, "organ": "one", "lesion": 2}),
        ("dataset.json", "organ"),
    ),
    "background is not 0": (
        described(labels={"background": 5, "organ": 1, "lesion": 2}),
        ("dataset.json", "background"),
    ),
    "regions": (
        described(labels={"background": 0, "organ": [1, 2], "lesion": 2}),
        ("dataset.json", "regions_class_order", "organ, lesion"),
    ),
    "order of regions with a value outside": (
        described(
            labels={"background": 0, "organ": [1, 2], "lesion": 2}, regions_class_order=[1, 3]
        ),
        ("dataset.json", "regions_class_order", "lesion", "3"),
    ),
    "ignore is a label": (
        described(labels={"background": 0, "organ": 1, "lesion": 2, "ignore": 2}),
        ("dataset.json", "ignore", "lesion"),
    ),
    "nothing annotated": (nothing_annotated, ("case_001", "no voxel is annotated", "ignore")),
    "two labels of one value": (
        described(labels={"background": 0, "organ": 1, "lesion": 1}),
        ("dataset.json", "lesion"),
    ),
    "image without label": (lambda d: label_path(d).unlink(), ("case_001", "label")),
    "label without image": (lambda d: image_path(d).unlink(), ("case_001",)),
    "missing channel": (second_channel(None), ("case_001", "channel")),
    "empty image folder": (
        without_images,
        ("imagesTr",),
    ),
    "truncated image": (truncate(image_path), ("case_001_0000.nii.gz",)),
    "truncated label": (truncate(label_path), ("case_001.nii.gz",)),
    "garbage image": (
        lambda d: image_path(d).write_bytes(b"no image at all"),
        ("case_001_0000.nii.gz",),
    ),
    "NaN": (rewritten(image_path, voxels(put(np.nan))), ("case_001_0000.nii.gz", "NaN")),
    "infinite": (rewritten(image_path, voxels(put(np.inf))), ("case_001_0000.nii.gz", "infinite")),
    "undeclared label": (rewritten(label_path, voxels(put(7))), ("case_001.nii.gz", "7")),
    "soft label": (rewritten(label_path, voxels(put(0.5))), ("case_001.nii.gz", "0.5")),
    "label of other size": (rewritten(label_path, crop), ("case_001.nii.gz", "11", "12")),
    "label of other spacing": (rewritten(label_path, spacing), ("case_001.nii.gz", "spacing")),
    "label of other origin": (rewritten(label_path, origin), ("case_001.nii.gz", "origin")),
    "label of other direction": (
        rewritten(label_path, direction),
        ("case_001.nii.gz", "direction"),
    ),
    "channels of other size": (second_channel(crop), ("case_001_0001.nii.gz", "11")),
    "channels of other spacing": (second_channel(spacing), ("case_001_0001.nii.gz", "spacing")),
    "no foreground anywhere": (all_empty, ("foreground",)),
    "copied image": (
        lambda d: shutil.copy(image_path(d, 1), image_path(d, 2)),
        ("case_001", "case_002", "identical"),
    ),
    "group of an unknown case": (
        lambda d: (d / "groups.csv").write_text("case,group\ncase_001,a\n"),
        ("groups.csv", "case_000"),
    ),
}


@pytest.mark.parametrize("name", DATASETS)
def test_bad_dataset(
    name: str,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage, fragments = DATASETS[name]
    damage(data)
    workspace = tmp_path / "workspace"
    code = run(monkeypatch, "plan", data, "--workspace", workspace, "--device", "cpu")
    message = capsys.readouterr().err
    assert code == 2, message
    assert all(fragment in message for fragment in fragments), message
    assert "Traceback" not in message
    assert not list(workspace.rglob("*")), "nothing may be written"


def test_all_complaints_come_at_once(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rewritten(lambda d: image_path(d, 0), voxels(put(np.nan)))(data)
    truncate(lambda d: image_path(d, 1))(data)
    rewritten(lambda d: label_path(d, 2), voxels(put(9)))(data)
    rewritten(lambda d: label_path(d, 3), origin)(data)
    assert run(monkeypatch, "plan", data, "--workspace", tmp_path / "workspace") == 2
    message = capsys.readouterr().err
    assert all(f"case_{case:03d}" in message for case in range(4)), message


def test_few_cases_give_fewer_folds_and_say_so(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "three.txt").write_text("case_000\ncase_001\ncase_002\n")
    arguments = ("--workspace", tmp_path / "workspace", "--no-preprocess", "--device", "cpu")
    assert run(monkeypatch, "plan", data, "--cases", tmp_path / "three.txt", *arguments) == 0
    assert "3 folds" in capsys.readouterr().out


OPTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "unknown path": (("--set", "configurations.3d_fullres.bach=4"), ("bach", "batch")),
    "unknown configuration": (("--set", "configurations.4d.batch=4"), ("4d", "3d_fullres")),
    "wrong type": (("--set", "configurations.3d_fullres.batch=many"), ("batch",)),
    "impossible patch": (("--set", "configurations.3d_fullres.patch=[7,7,7]"), ("patch",)),
    "no equals sign": (("--set", "batch"), ("--set batch",)),
    "memory": (("--memory", "lots"), ("lots",)),
    "planner": (("--planner", "oracle"), ("oracle", "default")),
    "case list missing": (("--cases", "nowhere.txt"), ("nowhere.txt",)),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_bad_plan_option(
    name: str,
    pristine: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments, fragments = OPTIONS[name]
    workspace = tmp_path / "workspace"
    code = run(
        monkeypatch, "plan", pristine, "--workspace", workspace, "--device", "cpu", *arguments
    )
    message = capsys.readouterr().err
    assert code == 2, message
    assert all(fragment in message for fragment in fragments), message
    assert not list(workspace.rglob("plan.json"))


def test_unknown_case_ids_and_unknown_dataset(
    pristine: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "ids.txt").write_text("case_000 case_777")
    assert run(monkeypatch, "plan", pristine, "--cases", tmp_path / "ids.txt") == 2
    assert "case_777" in capsys.readouterr().err
    assert run(monkeypatch, "plan", "nothing_here", "--workspace", tmp_path) == 2
    assert "nothing_here" in capsys.readouterr().err


@pytest.fixture(scope="session")
def trained(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a workspace with one finished fold of the tiny network."""
    workspace = tmp_path_factory.mktemp("trained") / "workspace"
    shared = ("--workspace", workspace, "--device", "cpu")
    with pytest.MonkeyPatch.context() as patch:
        assert run(patch, "plan", pristine, *shared, *TINY_NETWORK) == 0
        length = ("--epochs", "1", "--steps-per-epoch", "2", "--workers", "0")
        assert run(patch, "train", "tiny", "3d_fullres", "0", *shared, *length) == 0
    return workspace


@pytest.fixture
def workspace(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "workspace"))


def edited(name: str, old: str, new: str) -> Damage:
    """Replace text in a file of the workspace's data set folder."""

    def damage(workspace: Path) -> None:
        path = workspace / "tiny" / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return damage


WEIGHTS = "tiny/models/3d_fullres/fold_0/weights.safetensors"
FOLD = "models/3d_fullres/fold_0/fold.json"


def other_network(workspace: Path) -> None:
    weights = load_weights(workspace / WEIGHTS)
    weights["heads.0.weight"] = weights["heads.0.weight"][:1]
    save_weights(weights, workspace / WEIGHTS)


def pickled(workspace: Path) -> None:
    (workspace / WEIGHTS).write_bytes(b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07os.")


TRAIN = ("train", "tiny", "3d_fullres", "1", "--epochs", "1", "--steps-per-epoch", "1")
PREDICT = ("predict", "-i", "IMAGES", "-o", "OUT")
nothing: Damage = lambda workspace: None  # noqa: E731 (a table entry)

RUNS: dict[str, tuple[Damage, tuple[str, ...], tuple[str, ...]]] = {
    "plan.json cut": (truncate(lambda w: w / "tiny/plan.json"), TRAIN, ("plan.json",)),
    "plan.json unknown key": (
        edited("plan.json", '"batch"', '"bach"'),
        TRAIN,
        ("plan.json", "$.configurations[0]"),
    ),
    "plan.json wrong type": (
        edited("plan.json", '"batch": ', '"batch": "x", "patch_": '),
        TRAIN,
        ("plan.json", "batch"),
    ),
    "plan.json unknown network": (
        edited("plan.json", '"kind": "unet"', '"kind": "unett"'),
        TRAIN,
        ("plan.json", "network", "unett"),
    ),
    "splits.json broken": (
        lambda w: (w / "tiny/splits.json").write_text("[]"),
        TRAIN,
        ("splits.json",),
    ),
    "dataset not planned": (nothing, ("train", "other", "2d", "0"), ("other", "tiny")),
    "unknown configuration to train": (
        nothing,
        ("train", "tiny", "3d_lowres", "0"),
        ("3d_lowres", "3d_fullres"),
    ),
    "unknown fold": (nothing, ("train", "tiny", "3d_fullres", "9"), ("'9'", "5 folds")),
    "nonsense time": (nothing, ("train", "tiny", "2d", "0", "--time", "soon"), ("soon",)),
    "weights cut": (truncate(lambda w: w / WEIGHTS), PREDICT, ("weights.safetensors",)),
    "weights are a pickle": (pickled, PREDICT, ("weights.safetensors",)),
    "weights of another network": (other_network, PREDICT, ("heads.0.weight",)),
    "fold.json broken": (edited(FOLD, '"seed"', '"sed"'), PREDICT, ("fold.json", "sed")),
    "plan edited after training": (
        edited("plan.json", '"order_image": 3', '"order_image": 1'),
        PREDICT,
        ("fold.json", "another plan"),
    ),
    "no such configuration trained": (nothing, (*PREDICT, "--config", "2d"), ("2d", "3d_fullres")),
    "no such fold trained": (nothing, (*PREDICT, "--folds", "3"), ("3",)),
    "no image": (nothing, ("predict", "-i", "EMPTY", "-o", "OUT"), ("empty",)),
    "no such device": (nothing, (*PREDICT, "--device", "tpu"), ("tpu",)),
    "predictions missing": (
        nothing,
        ("evaluate", "-p", "EMPTY", "-r", "REFERENCES"),
        ("case_005",),
    ),
    "tolerance": (
        nothing,
        ("evaluate", "-p", "REFERENCES", "-r", "REFERENCES", "--tolerance", "organ=far"),
        ("organ=far",),
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_bad_run(
    name: str,
    pristine: Path,
    workspace: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage, command, fragments = RUNS[name]
    damage(workspace)
    (tmp_path / "empty").mkdir()
    places = {
        "IMAGES": pristine / "imagesTs",
        "REFERENCES": pristine / "labelsTs",
        "OUT": tmp_path / "out",
        "EMPTY": tmp_path / "empty",
    }
    arguments = [places.get(word, word) for word in command]
    if command[0] != "evaluate":
        device = () if "--device" in command else ("--device", "cpu")
        arguments += ["--workspace", workspace, *device]
    capsys.readouterr()
    code = run(monkeypatch, *arguments)
    message = capsys.readouterr().err
    assert code == 2, message
    assert all(fragment in message for fragment in fragments), message
    assert not list((tmp_path / "out").glob("*.nii.gz"))
    assert not list(workspace.rglob("*.tmp"))


def test_a_broken_image_is_reported_and_the_others_are_done(
    trained: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    truncate(lambda d: d / "imagesTs" / "case_005_0000.nii.gz")(data)
    out = tmp_path / "out"
    source = data / "imagesTs"
    code = run(monkeypatch, "predict", "-i", source, "-o", out, "--workspace", trained)
    assert code == 1
    assert "case_005" in capsys.readouterr().out
    assert [path.name for path in out.glob("[!.]*")] == ["case_006.nii.gz"]
