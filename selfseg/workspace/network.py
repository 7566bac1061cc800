"""Files of one network, while it is trained and afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class NetworkFolder:
    """What folds and pretrained networks have in common."""

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
    def log(self) -> Path:
        """What training told, with the time of each line."""
        return self.path / "train.log"

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
