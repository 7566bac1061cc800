"""Five hippocampus cases with and without help: the arms of the few-case benchmark, and scores.

An arm is a function that plans and trains, and returns the folder of its model. All have the
network, patch and batch of the plan for the five cases alone, and are scored alike.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from commandline import selfseg

from selfseg.folds import find_configuration
from selfseg.phantoms.two_parts import DARK_FLUID, write_two_parts_dataset
from selfseg.records import serial
from selfseg.records.estimate import Estimate
from selfseg.records.metrics import MetricsTable
from selfseg.records.model import TrainedFold
from selfseg.records.network import DualChannel, GatedEncoders, ResidualUNet, UNet
from selfseg.records.plan import Configuration, Plan
from selfseg.selection.statistics import Floats, difference, draw_weights, estimate
from selfseg.workspace.dataset import DatasetFolder

CONFIGURATION = "3d_fullres"
CONTROL = "scratch"
EPOCHS = 20
LIMIT_S = 12 * 3600.0  # of a command, on a machine that has other work
REPLICATES, CONFIDENCE = 2000, 0.95


class Sizes(serial.Record):
    """How much of everything; steps, not seconds, so that the load of a machine changes nothing.

    Attributes:
        source_cases: Generated, that a model is trained on, or that are borrowed.
        source_steps: Of that model.
        images: Without labels, of the same data set, none of the five and no test case.
        pretrain_steps: On them.
        steps: Of an arm on the five cases.
        gated_steps: The same of two encoders: a step costs about 1.6 times as much.
        settings: For `--set` in the plan that all arms follow.
    """

    source_cases: int
    source_steps: int
    images: int
    pretrain_steps: int
    steps: int
    gated_steps: int
    settings: tuple[str, ...] = ()


class ArmScores(serial.Record):
    """Dice of every test case and label of an arm, and what `plan` thought of its start.

    `seconds` are those of its training on the five cases, not of the model that it starts from.
    """

    arm: str
    steps: int
    seconds: float
    verdict: str
    cases: tuple[str, ...]
    dice: tuple[tuple[float, ...], ...]

    @property
    def table(self) -> Floats:
        """Dice, (cases, labels)."""
        return np.array(self.dice, np.float64)


class Results(serial.Record):
    """All arms so far."""

    arms: tuple[ArmScores, ...] = ()


@dataclass(frozen=True)
class Study:
    """A folder, the real data and the sizes."""

    root: Path
    data: Path
    sizes: Sizes

    def run(self, *arguments: str | Path) -> str:
        """Run a command; return what it prints."""
        done = selfseg(*arguments, limit_s=LIMIT_S)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def plan(self, workspace: Path, *options: str | Path, data: Path | None = None) -> Plan:
        """Plan the five cases, or other data, in a workspace."""
        chosen = () if data else ("--cases", self.data / "train5.txt")
        self.run(
            "plan", data or self.data, *chosen, "--workspace", workspace, "--device", "cpu",
            "--no-preprocess", *options,
        )  # fmt: skip
        (path,) = workspace.glob("*/plan.json")
        return serial.load(Plan, path)

    def train(self, workspace: Path, name: str, steps: int, *options: str | Path) -> Path:
        """Train on all cases of a planned data set; return the folder of the model."""
        epochs = min(EPOCHS, steps)
        self.run(
            "train", name, CONFIGURATION, "all", "--workspace", workspace, "--device", "cpu",
            "--epochs", str(epochs), "--steps-per-epoch", str(steps // epochs), *options,
        )  # fmt: skip
        return workspace / name

    def plain(self) -> Configuration:
        """Return what the plan for the five cases alone says."""
        plan = self.plan(self.root / "plain", *_set(self.sizes.settings))
        return find_configuration(plan, CONFIGURATION)

    def generated(self) -> Path:
        """Return the folder of the generated data set."""
        folder = self.root / "generated"
        if not (folder / "dataset.json").is_file():  # it is written last
            write_two_parts_dataset(
                folder, name="generated", style=DARK_FLUID, train=self.sizes.source_cases, test=0,
                seed=1,
            )  # fmt: skip
        return folder

    def source(self) -> Path:
        """Return the folder of a model of the generated data, which other arms begin with."""
        workspace, item = self.root / "source", self.plain()
        self.plan(workspace, *_set(_equal(item)), data=self.generated())
        return self.train(workspace, "generated", self.sizes.source_steps)


def scratch(study: Study, workspace: Path) -> Path:
    """Begin with random weights: the control."""
    name = study.plan(workspace, *_set(_equal(study.plain()))).dataset
    return study.train(workspace, name, study.sizes.steps)


def init(study: Study, workspace: Path) -> Path:
    """Begin with the model of the generated data."""
    source = study.source()
    name = study.plan(workspace, "--init", source).dataset
    return study.train(workspace, name, study.sizes.steps, "--init", source)


def joint(study: Study, workspace: Path) -> Path:
    """Train on the five cases and the generated ones together (V2)."""
    settings = _equal(study.plain(), network="network.backbone")
    name = study.plan(workspace, "--auxiliary", study.generated(), *_set(settings)).dataset
    return study.train(workspace, name, study.sizes.steps)


def fsnet_v1(study: Study, workspace: Path) -> Path:
    """Two gated encoders that both begin with the model of the generated data (V1)."""
    source, backbone = study.source(), study.plain().network
    assert isinstance(backbone, UNet | ResidualUNet)
    network = DualChannel(backbone=backbone, variant=GatedEncoders())
    value = f"configurations.{CONFIGURATION}.network={network.model_dump_json()}"
    name = study.plan(workspace, "--init", source, *_set((value,))).dataset
    return study.train(workspace, name, study.sizes.gated_steps, "--init", source)


def pretrained(study: Study, workspace: Path) -> Path:
    """Begin with a network that has painted what was masked in images without labels."""
    name = study.plan(workspace, *_set(_equal(study.plain()))).dataset
    images = _unlabelled(study, workspace / "unlabelled")
    study.run(
        "pretrain", name, "--images", images, "--config", CONFIGURATION, "--workspace", workspace,
        "--device", "cpu", "--steps", str(study.sizes.pretrain_steps),
    )  # fmt: skip
    start = workspace / name / "pretrained" / CONFIGURATION
    return study.train(workspace, name, study.sizes.steps, "--init", start)


ARMS: dict[str, Callable[[Study, Path], Path]] = {
    arm.__name__: arm for arm in (scratch, init, joint, fsnet_v1, pretrained)
}


def run_arm(study: Study, arm: str) -> Results:
    """Train and score an arm, write that down, and return all that is known.

    What was killed goes on; what was finished is trained anew.
    """
    path, workspace = study.root / "results.json", study.root / arm
    known = serial.load(Results, path).arms if path.is_file() else ()
    if any(item.arm == arm for item in known):
        shutil.rmtree(workspace)
    found = _scored(study, arm, ARMS[arm](study, workspace))
    results = Results(arms=(*(item for item in known if item.arm != arm), found))
    serial.save(results, path)
    return results


def compared(results: Results) -> dict[str, tuple[Estimate, Estimate | None]]:
    """Return the mean Dice of each arm, and how much more it is than the control's, by case.

    Intervals are percentiles of bootstraps over test cases (Efron 1979), those of differences
    paired; of the luck of a training they know nothing.
    """
    control = next((item for item in results.arms if item.arm == CONTROL), None)
    found: dict[str, tuple[Estimate, Estimate | None]] = {}
    for item in results.arms:
        weights = draw_weights(item.cases, REPLICATES, seed=0)
        gain = None
        if control is not None and item is not control:
            assert item.cases == control.cases
            gain = difference(item.table, control.table, weights, CONFIDENCE)
        found[item.arm] = estimate(item.table, weights, CONFIDENCE), gain
    return found


def described(results: Results) -> str:
    """Return a table of all arms so far."""
    lines = ["| arm | steps | minutes | Dice (95 %) | more than scratch (95 %) | start |"]
    lines.append("|---|---|---|---|---|---|")
    values = compared(results)
    for item in results.arms:
        mean, gain = values[item.arm]
        more = "" if gain is None else f"{gain.value:+.3f} ({gain.lower:+.3f} to {gain.upper:+.3f})"
        lines.append(
            f"| {item.arm} | {item.steps} | {item.seconds / 60:.0f} | {mean.value:.3f} "
            f"({mean.lower:.3f} to {mean.upper:.3f}) | {more} | {item.verdict} |"
        )
    return "\n".join(lines)


def _scored(study: Study, arm: str, model: Path) -> ArmScores:
    """Segment the test cases and score them."""
    out = study.root / arm / "predictions"
    study.run(
        "predict", "-i", study.data / "imagesTs", "-o", out, "-m", model, "--config",
        CONFIGURATION, "--device", "cpu",
    )  # fmt: skip
    printed = study.run("evaluate", "-p", out, "-r", study.data / "labelsTs", "--json")
    table = serial.decode(MetricsTable, printed, source="evaluate")
    plan = serial.load(Plan, model / "plan.json")
    verdict = next((item.value for item in plan.decisions if item.rule == "start"), "")
    trained = serial.load(TrainedFold, DatasetFolder(model).fold(CONFIGURATION, "all").description)
    return ArmScores(
        arm=arm,
        steps=trained.steps,
        seconds=trained.seconds,
        verdict=verdict.partition(":")[0],
        cases=tuple(case.case for case in table.cases),
        dice=tuple(
            tuple(np.nan if s.dice is None else s.dice for s in case.labels.values())
            for case in table.cases
        ),
    )


def _equal(item: Configuration, *, network: str = "network") -> tuple[str, ...]:
    """Return settings that make a plan's network, patch and batch those of another one."""
    place = f"configurations.{CONFIGURATION}"
    return (
        f"{place}.{network}={item.network.model_dump_json()}",
        f"{place}.patch={list(item.patch)}",
        f"{place}.batch={item.batch}",
    )


def _set(settings: Sequence[str]) -> tuple[str, ...]:
    return tuple(part for value in settings for part in ("--set", value))


def _unlabelled(study: Study, folder: Path) -> Path:
    """Copy images that are none of the five."""
    used = set((study.data / "train5.txt").read_text("utf-8").split())
    there = sorted((study.data / "imagesTr").iterdir())
    free = [path for path in there if path.name.removesuffix("_0000.nii.gz") not in used]
    folder.mkdir(parents=True, exist_ok=True)
    for path in free[: study.sizes.images]:
        shutil.copyfile(path, folder / path.name)
    return folder
