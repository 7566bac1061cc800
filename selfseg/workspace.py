"""The only file that knows the file names of a workspace."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from selfseg.errors import NoPlanError, RecordError, SelfSegError
from selfseg.records import serial
from selfseg.records.dataset import Dataset
from selfseg.records.fingerprint import Fingerprint
from selfseg.records.loss_maps import LossMap
from selfseg.records.preprocessing import Preprocessing, spell_out_spacing

log = logging.getLogger(__name__)

DEFAULT_WORKSPACE = "selfseg_workspace"
ENVIRONMENT_VARIABLE = "SELFSEG_WORKSPACE"


def workspace_root(option: Path | None) -> Path:
    """Return the workspace folder: option, else environment variable, else the default."""
    return option or Path(os.environ.get(ENVIRONMENT_VARIABLE) or DEFAULT_WORKSPACE)


@dataclass(frozen=True)
class NetworkFolder:
    """Files of one network while it is trained and afterwards."""

    path: Path

    @property
    def weights(self) -> Path:
        """Final weights; present once it is finished."""
        return self.path / "weights.safetensors"

    @property
    def checkpoint(self) -> Path:
        """All that is needed to resume, in one file."""
        return self.path / "checkpoint" / "state.safetensors"

    @property
    def lock(self) -> Path:
        """Held by the process that trains it."""
        return self.path.with_name(f".{self.path.name}.lock")


@dataclass(frozen=True)
class FoldFolder(NetworkFolder):
    """Files of one trained fold: `models/CONFIG/fold_K`."""

    @property
    def description(self) -> Path:
        """TrainedFold record; written just before the weights."""
        return self.path / "fold.json"

    @property
    def transfer(self) -> Path:
        """TransferReport record: what came from the model that the fold started from."""
        return self.path / "transfer.json"

    @property
    def shapes(self) -> Path:
        """ShapeModels record; written after the tensors."""
        return self.path / "shapes.json"

    @property
    def shape_tensors(self) -> Path:
        """Tensors of the accepted shape models."""
        return self.path / "shapes.safetensors"

    @property
    def history(self) -> Path:
        """One JSON line an epoch."""
        return self.path / "history.jsonl"

    @property
    def validation(self) -> Path:
        """Predictions of the fold's validation cases, and their scores."""
        return self.path / "validation"

    @property
    def probabilities(self) -> Path:
        """Out-of-fold probabilities of the validation cases, compact: what selection reads."""
        return self.validation / "probabilities"

    def case_probabilities(self, case: str) -> Path:
        """Out-of-fold probabilities of one validation case."""
        return self.probabilities / f"{case}.b2nd"

    @property
    def scores(self) -> Path:
        """Scores of the held-out cases; written last."""
        return self.validation / "scores.json"

    @property
    def topology(self) -> Path:
        """Scores of the held-out cases with those of their topology, where a race asked for it."""
        return self.validation / "topology.json"

    @property
    def timing(self) -> Path:
        """How long the prediction of the validation cases took."""
        return self.validation / "timing.json"


@dataclass(frozen=True)
class PretrainedFolder(NetworkFolder):
    """Files of a network that was pretrained without labels, which has no heads then."""

    @property
    def description(self) -> Path:
        """Pretrained record; written just before the weights."""
        return self.path / "pretrained.json"

    @property
    def arrays(self) -> Path:
        """Preprocessed images; may be deleted afterwards."""
        return self.path.with_name(f"{self.path.name}_arrays")


@dataclass(frozen=True)
class DatasetFolder:
    """Files of one dataset: `WORKSPACE/NAME`."""

    path: Path

    @property
    def workspace(self) -> Path:
        """The workspace that it lies in."""
        return self.path.parent

    @property
    def dataset(self) -> Path:
        """What was read."""
        return self.path / "dataset.json"

    @property
    def fingerprint(self) -> Path:
        """Measured facts."""
        return self.path / "fingerprint.json"

    @property
    def auxiliary(self) -> Path:
        """What was read of the second data set that training borrows from."""
        return self.path / "auxiliary.json"

    @property
    def plan(self) -> Path:
        """All decisions."""
        return self.path / "plan.json"

    @property
    def plan_lock(self) -> Path:
        """Held by the process that reads the plan to write a changed one."""
        return self.path / ".plan.lock"

    @property
    def splits(self) -> Path:
        """Folds."""
        return self.path / "splits.json"

    @property
    def models(self) -> Path:
        """Trained folds of all configurations."""
        return self.path / "models"

    @property
    def selection(self) -> Path:
        """What cross-validation chose."""
        return self.path / "selection.json"

    @property
    def run(self) -> Path:
        """How far `selfseg run` is."""
        return self.path / "run.json"

    @property
    def run_lock(self) -> Path:
        """Held by the process that runs everything."""
        return self.path / ".run.lock"

    @property
    def selection_scores(self) -> Path:
        """Scores of cases that selection has measured; may be deleted."""
        return self.path / "selection_scores"

    @property
    def is_model_alone(self) -> bool:
        """Whether a trained model lies here without the data that it was planned for."""
        return self.plan.is_file() and self.models.is_dir() and not self.dataset.is_file()

    def refuse_namesake(self, root: Path) -> None:
        """Refuse data that is not what was planned here; data that was moved is the same.

        Raises:
            SelfSegError: This folder holds another dataset of the same name, or a model without
                its data, which could not be used any more with another plan beside it.
        """
        if self.is_model_alone:
            raise SelfSegError(
                f"{self.path} holds a model from elsewhere, trained on data of this name",
                remedy="Give the data set another 'name' in its dataset.json, use another "
                "--workspace, or move the model: it can lie anywhere.",
            )
        try:
            former = Path(serial.load(Dataset, self.dataset).root)
        except RecordError:
            return
        if former.is_dir() and former.resolve() != root.resolve():
            raise SelfSegError(
                f"{self.path} holds another dataset of this name, read from {former}",
                remedy="Give one of them another 'name' in its dataset.json, or use another "
                "--workspace.",
            )

    def spelled_out(self, options: Preprocessing) -> Preprocessing:
        """Options that do the same to the cases measured here, equal if what they do is equal."""
        if options.spacing_mm[0] is not None:
            return options
        try:
            cases = serial.load(Fingerprint, self.fingerprint).cases
        except RecordError:
            return options
        return spell_out_spacing(options, (case.spacing_mm for case in cases))

    def preprocessed(self, options: Preprocessing) -> Path:
        """Folder of the arrays made with these options, or with others that do the same."""
        return self._arrays(self.spelled_out(options))

    def auxiliary_arrays(self, options: Preprocessing) -> Path:
        """Folder of the arrays of the auxiliary data set made with these options."""
        arrays = self._arrays(options)
        return arrays.with_name(f"{arrays.name}_auxiliary")

    def _arrays(self, options: Preprocessing) -> Path:
        """Folder named by spacing and a digest of the options."""
        spacing = "x".join("own" if s is None else f"{s:.4g}" for s in options.spacing_mm)
        return self.path / "preprocessed" / f"{spacing}_{serial.digest(options)[:8]}"

    def previous_stage(self, options: Preprocessing, stage: str) -> Path:
        """Folder of a stage's segmentations, brought to the grid of the arrays of `options`."""
        return self.preprocessed(options) / f"previous_{stage}"

    def crops(self, previous: Path) -> Path:
        """Folder of the boxes found in the segmentations of a `previous_stage` folder."""
        return previous / "crops"

    def loss_maps(self, options: Preprocessing, maps: Sequence[LossMap], *, flat: bool) -> Path:
        """Folder of maps that a loss needs, on the grid of the arrays of `options`.

        The name tells maps with other options apart, so that one training does not take them from
        another.
        """
        kinds = "_".join(item.kind for item in maps)
        digest = hashlib.sha256(repr(tuple(maps)).encode()).hexdigest()[:8]
        return self.preprocessed(options) / f"maps_{'2d' if flat else '3d'}_{kinds}_{digest}"

    def pretrained(self, configuration: str) -> PretrainedFolder:
        """Folder of a network that was pretrained without labels."""
        return PretrainedFolder(self.path / "pretrained" / configuration)

    def fold(self, configuration: str, fold: str) -> FoldFolder:
        """Folder of one fold; `fold` is `0`, `1`, … or `all`."""
        return FoldFolder(self.models / configuration / f"fold_{fold}")

    def race(self, configuration: str, key: str) -> RaceFolder:
        """Folder of one race; `key` tells races of a configuration apart."""
        return RaceFolder(self.path / "race" / f"{configuration}_{key}", self)


@dataclass(frozen=True)
class ArmFolder(DatasetFolder):
    """An arm of a race: only the models of `raced` are its own, the rest is the data set's."""

    home: DatasetFolder
    raced: str

    @property
    def fingerprint(self) -> Path:
        """Measured facts."""
        return self.home.fingerprint

    @property
    def workspace(self) -> Path:
        """The workspace that the data set lies in."""
        return self.home.workspace

    @property
    def auxiliary(self) -> Path:
        """What was read of the auxiliary data set."""
        return self.home.auxiliary

    @property
    def splits(self) -> Path:
        """Folds."""
        return self.home.splits

    def preprocessed(self, options: Preprocessing) -> Path:
        """Folder of the arrays made with these options."""
        return self.home.preprocessed(options)

    def fold(self, configuration: str, fold: str) -> FoldFolder:
        """Folder of one fold."""
        if configuration != self.raced:
            return self.home.fold(configuration, fold)
        return super().fold(configuration, fold)


@dataclass(frozen=True)
class RaceFolder:
    """Files of one race: `race/CONFIG_KEY`."""

    path: Path
    home: DatasetFolder

    @property
    def record(self) -> Path:
        """What is raced, how far it is, and its outcome."""
        return self.path / "race.json"

    @property
    def differences(self) -> Path:
        """Picture of the paired differences of all cases."""
        return self.path / "differences.png"

    @property
    def lock(self) -> Path:
        """Held by the process that races."""
        return self.path.with_name(f".{self.path.name}.lock")

    def arm(self, name: str, configuration: str) -> ArmFolder:
        """Folder of the models of one arm; `name` may hold any character."""
        safe = re.sub(r"[^\w+-]", "_", name)
        if safe != name:  # two names may look alike now
            safe += f"_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        return ArmFolder(self.path / safe, self.home, configuration)


def race_home(folder: Path) -> Path | None:
    """Return the data set's folder in which an arm of a race lies; None if it is no such arm."""
    parents = folder.resolve().parents
    if len(parents) < 3 or parents[1].name != "race":
        return None
    return parents[2] if DatasetFolder(parents[2]).plan.is_file() else None


def keep_former(path: Path, text: str) -> None:
    """Keep a file that is about to be replaced by a different one: it may hold edits by hand."""
    if not path.is_file():
        return
    former = path.read_text(encoding="utf-8")
    if former == text:
        return
    names = (path.with_name(f"{path.stem}.former-{n}{path.suffix}") for n in count(1))
    kept = next(name for name in names if not name.exists())
    serial.write_text(former, kept)
    log.warning("%s differs from the one that stood there, which is now %s", path, kept)


def dataset_folder(root: Path, name: str) -> DatasetFolder:
    """Return the folder of a dataset in a workspace."""
    return DatasetFolder(root / name)


def model_folder(root: Path, given: Path) -> Path:
    """Return the folder of a model; a bare name means a data set of the workspace."""
    named = dataset_folder(root, given.name)
    is_name = given == Path(given.name) and not DatasetFolder(given).plan.is_file()
    return named.path if is_name and named.plan.is_file() else given


def planned_folder(root: Path, dataset: str) -> DatasetFolder:
    """Return the folder of a planned dataset, given by name or by its data folder.

    Raises:
        NoPlanError: There is no plan for it; what the workspace holds is listed.
        SelfSegError: The plan is that of another data folder of the same name.
    """
    declared = _declared_name(Path(dataset))
    for name in dict.fromkeys((dataset, declared, Path(dataset).name)):
        folder = dataset_folder(root, name)
        if name and folder.plan.is_file():
            if declared:
                folder.refuse_namesake(Path(dataset))
            return folder
    planned = sorted(path.parent.name for path in root.glob("*/plan.json"))
    raise NoPlanError(
        f"{dataset}: no plan in workspace {root} (planned there: {', '.join(planned) or 'none'})",
        remedy=f"Run 'selfseg plan {dataset} --workspace {root}' first."
        if Path(dataset).is_dir()
        else "Give one of these names, or plan a data folder with 'selfseg plan FOLDER'.",
    )


def _declared_name(folder: Path) -> str:
    """Return the `name` in a folder's dataset.json, or an empty string."""
    try:
        described = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    name = described.get("name") if isinstance(described, dict) else None
    return name if isinstance(name, str) else ""
