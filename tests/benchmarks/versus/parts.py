"""What is compared with nnU-Net: each part prepares its data and names both sides' commands."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from versus.data import link_for_nnunet, nnunet_environment, take_cases, take_images, write_ct
from versus.measure import measure
from versus.prepared import nnunet_prepared, selfseg_prepared

Side = Literal["selfseg", "nnunet"]
SIDES: tuple[Side, ...] = ("selfseg", "nnunet")
HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
PREDICTED_CASES = 8


class UnavailableError(Exception):
    """A part cannot run here; the text says why."""


@dataclass(frozen=True)
class Place:
    """Where a part works, and where real data lie (None: nowhere)."""

    folder: Path
    data: Path | None

    def real(self, name: str) -> Path:
        """Return a folder of the real data.

        Raises:
            UnavailableError: It is not there.
        """
        if self.data is None or not (self.data / name).is_dir():
            raise UnavailableError(f"needs the data set {name} (--data)")
        return self.data / name


@dataclass(frozen=True)
class Command:
    """A command and what it adds to the environment."""

    words: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """One comparison.

    Attributes:
        name: For the command line.
        what: What is compared.
        unit: Of the figure: `s`, `s/case`, or something a second, of which more is better.
        bar: Least ratio that is promised.
        rounds: How often both sides run, in turn.
        prepare: Make the data; once.
        command: What a side runs in a round; it first clears what the round before left.
        memory_bar: Least ratio of the extra memory that is promised; None: not judged.
        check: Tells what a run has made, the same for both sides; None: its command reports that.
    """

    name: str
    what: str
    unit: str
    bar: float
    rounds: int
    prepare: Callable[[Place], None]
    command: Callable[[Place, Side], Command]
    memory_bar: float | None = None
    check: Callable[[Place, Side], str] | None = None


def _selfseg(*words: object) -> Command:
    return Command((str(BIN / "selfseg"), *map(str, words)), {"OMP_NUM_THREADS": "2"})


def _nnunet(place: Place, name: str, *words: object) -> Command:
    return Command((str(BIN / name), *map(str, words)), nnunet_environment(place.folder))


def _script(place: Place, name: str, *words: object) -> Command:
    """Return a side's script of this folder; it finds the helpers of the tests."""
    path = f"{HERE.parent}:{HERE.parent.parent}"
    one = {"nnUNet_n_proc_DA": "0"}  # batches are made in the script itself
    env = {**nnunet_environment(place.folder), **one, "PYTHONPATH": path}
    return Command((sys.executable, "-m", f"versus.{name}", *map(str, words)), env)


def _prepare_hippocampus(place: Place) -> None:
    source = place.real("hippocampus")
    names = (source / "train40.txt").read_text().split()
    link_for_nnunet(take_cases(source, names, place.folder / "hippocampus"), place.folder, 1)


def _prepare_ct(place: Place) -> None:
    link_for_nnunet(write_ct(place.folder / "ct"), place.folder, 2)


def _plan(dataset: str, number: int) -> Callable[[Place, Side], Command]:
    """Return the commands that measure, plan and preprocess with two processes.

    Both sides prepare every configuration that they plan: selfseg has no option for less.
    """

    def command(place: Place, side: Side) -> Command:
        if side == "selfseg":
            workspace = place.folder / "workspace"
            shutil.rmtree(workspace, ignore_errors=True)
            return _selfseg(
                "plan", place.folder / dataset, "--workspace", workspace, "--workers", 2,
                "--device", "cpu",
            )  # fmt: skip
        shutil.rmtree(place.folder / "preprocessed", ignore_errors=True)
        words = ("-d", number, "-np", 2, "-npfp", 2)
        return _nnunet(place, "nnUNetv2_plan_and_preprocess", *words)

    return command


def _prepared(dataset: str, number: int) -> Callable[[Place, Side], str]:
    """Return what tells which training arrays a side has just made."""

    def check(place: Place, side: Side) -> str:
        if side == "selfseg":
            return selfseg_prepared(place.folder / "workspace" / dataset)
        return nnunet_prepared(place.folder / "preprocessed" / f"Dataset{number:03d}_{dataset}")

    return check


def _prepare_loader(place: Place) -> None:
    dataset = write_ct(
        place.folder / "cube", cases=5, shape=(160, 160, 160), spacing_mm=(1.0, 1.0, 1.0)
    )
    link_for_nnunet(dataset, place.folder, 3)
    plan = _plan("cube", 3)
    for side in SIDES:
        command = plan(place, side)
        measure(command.words, command.env)


def _loader(place: Place, side: Side) -> Command:
    inputs = {"selfseg": "workspace", "nnunet": "preprocessed/Dataset003_cube"}
    return _script(place, "loader_side", side, place.folder / inputs[side], place.folder / "cube")


def _steps(setting: str) -> Callable[[Place, Side], Command]:
    return lambda place, side: _script(place, "steps_side", side, setting)


def _prepare_prediction(place: Place) -> None:
    """Take the first unseen cases, and import the model that nnU-Net trained."""
    source, images = place.real("nnunet_model") / "model", place.real("hippocampus") / "imagesTs"
    names = sorted(path.name.removesuffix("_0000.nii.gz") for path in images.glob("*_0000.nii.gz"))
    take_images(images, names[:PREDICTED_CASES], place.folder / "images")
    (place.folder / "nnunet").unlink(missing_ok=True)
    (place.folder / "nnunet").symlink_to(source)
    _import(place)


def _prepare_prediction_ct(place: Place) -> None:
    dataset = write_ct(place.folder / "ct", cases=1)
    take_images(dataset / "imagesTr", ["ct_0"], place.folder / "images")
    command = _script(place, "ct_model", place.folder / "nnunet")
    measure(command.words, command.env)
    _import(place)


def _import(place: Place) -> None:
    shutil.rmtree(place.folder / "selfseg", ignore_errors=True)
    command = _selfseg("import", place.folder / "nnunet", "-o", place.folder / "selfseg")
    measure(command.words, command.env)


def _predict(place: Place, side: Side) -> Command:
    output = place.folder / "out" / side
    shutil.rmtree(output, ignore_errors=True)
    model, images = place.folder / side, place.folder / "images"
    return _script(place, "predict_side", side, model, images, output)


def _nothing(_: Place) -> None:
    pass


PARTS = (
    Part(
        name="plan",
        what="plan and preprocess, hippocampus MR, 40 cases",
        unit="s",
        bar=5.0,
        rounds=3,
        prepare=_prepare_hippocampus,
        command=_plan("hippocampus", 1),
        check=_prepared("hippocampus", 1),
    ),
    Part(
        name="plan-ct",
        what="plan and preprocess, CT, 6 × (200×512×512)",
        unit="s",
        bar=3.0,
        rounds=2,
        prepare=_prepare_ct,
        command=_plan("ct", 2),
        check=_prepared("ct", 2),
    ),
    Part(
        name="loader",
        what="augmented samples of 128³ a second of one core",
        unit="samples/s",
        bar=1.5,
        rounds=3,
        prepare=_prepare_loader,
        command=_loader,
    ),
    Part(
        name="steps",
        what="training steps, hippocampus plan (40×56×40, batch 2)",
        unit="steps/s",
        bar=2.0,
        rounds=3,
        prepare=_nothing,
        command=_steps("hippocampus"),
    ),
    Part(
        name="steps-96",
        what="training steps, 96³, batch 2",
        unit="steps/s",
        bar=2.0,
        rounds=2,
        prepare=_nothing,
        command=_steps("cube96"),
    ),
    Part(
        name="export",
        what="logits of 60 labels to a label map of 200×256×256",
        unit="s",
        bar=5.0,
        rounds=2,
        prepare=_nothing,
        command=lambda place, side: _script(place, "export_side", side),
        memory_bar=5.0,
    ),
    Part(
        name="predict",
        what=f"prediction of {PREDICTED_CASES} hippocampus MR, nnU-Net's model, mirrored",
        unit="s/case",
        bar=2.0,
        rounds=3,
        prepare=_prepare_prediction,
        command=_predict,
        memory_bar=2.0,
    ),
    Part(
        name="predict-ct",
        what="prediction of a CT of 200×512×512, small network, not mirrored",
        unit="s/case",
        bar=2.0,
        rounds=2,
        prepare=_prepare_prediction_ct,
        command=_predict,
        memory_bar=2.0,
    ),
)
