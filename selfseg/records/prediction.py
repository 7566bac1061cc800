"""What made a label map: models and options of a prediction, the images, the files written."""

from __future__ import annotations

from typing import Literal

from selfseg.records.crf import DenseCrf
from selfseg.records.dataset import File
from selfseg.records.model import Engine
from selfseg.records.names import ConfigurationName
from selfseg.records.postprocessing import Step
from selfseg.records.serial import Record
from selfseg.records.shape_model import CaseQuality


class UsedModel(Record):
    """Folds that segmented, by digests: it does not matter where they lie.

    Attributes:
        configuration, folds: Which.
        trained_as: `TrainedFold.plan_digest` of them.
        settings: Digest of the whole configuration.
        weights, shapes: Digests of the weights and of the shape models of each fold; empty
            strings for folds without shape models.
        step: Distance of windows in patches.
    """

    configuration: ConfigurationName
    folds: tuple[str, ...]
    trained_as: str
    settings: str
    weights: tuple[str, ...]
    shapes: tuple[str, ...]
    step: float


class PredictionBasis(Record):
    """All that label maps depend on beside their images.

    The device and the limit of memory are not in it: they move the last digits at most.
    """

    program: str
    dataset: str
    members: tuple[UsedModel, ...]
    previous: tuple[UsedModel, ...]
    tta: bool
    engine: Engine
    crf: DenseCrf | None
    postprocessing: tuple[Step, ...]

    def differences(self, other: PredictionBasis) -> tuple[str, ...]:
        """Return the fields in which another one differs."""
        names = type(self).model_fields
        return tuple(name for name in names if getattr(self, name) != getattr(other, name))


class WrittenFile(Record):
    """A file that was written, by its name in the folder, and its size in bytes."""

    name: str
    size: int


class PredictedCase(Record):
    """What made the files of a case; without `files` it was begun and not finished.

    `images` have bare names, since data may be moved; none are named before the case has its turn.
    `quality` are the scores of its shapes.
    """

    schema_version: Literal[1] = 1
    case: str
    basis: PredictionBasis
    images: tuple[File, ...]
    files: tuple[WrittenFile, ...] = ()
    quality: CaseQuality | None = None
