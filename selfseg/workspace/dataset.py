"""Files of one data set, and of the races held on it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selfseg.errors import RecordError
from selfseg.records import serial
from selfseg.records.fingerprint import Fingerprint
from selfseg.records.loss_maps import LossMap
from selfseg.records.preprocessing import Preprocessing, spell_out_spacing
from selfseg.workspace.network import FoldFolder, PretrainedFolder


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
    def former_plans(self) -> tuple[Path, ...]:
        """Plans that stood in place of the plan before, the last one first."""
        return _former(self.plan)

    @property
    def plan_lock(self) -> Path:
        """Held by the process that reads the plan to write a changed one."""
        return self.path / ".plan.lock"

    @property
    def splits(self) -> Path:
        """Folds."""
        return self.path / "splits.json"

    @property
    def former_splits(self) -> tuple[Path, ...]:
        """Folds that stood in their place before, the last ones first."""
        return _former(self.splits)

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


def _former(path: Path) -> tuple[Path, ...]:
    """Return what `save_keeping_former` kept of a file, the last one first."""
    found = path.parent.glob(f"{path.stem}.former-*{path.suffix}")
    return tuple(sorted(found, key=lambda path: (len(path.name), path.name), reverse=True))
