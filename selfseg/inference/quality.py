"""A quality score of predicted shapes: how well a shape model renders them.

The score is the Dice between a mask and the shape model's rendering of it, which is drawn towards
shapes like those of the training cases (after the denoising autoencoders of Larrazabal et al.
2020); low is what references scored seldom when the model was judged.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from selfseg.arrays import Indices
from selfseg.networks.shape_autoencoder import ShapeModel
from selfseg.networks.shape_files import load_accepted
from selfseg.networks.shape_grid import ShapeBox, bounds, dice, sample_box
from selfseg.records import serial
from selfseg.records.dataset import Case, Targets
from selfseg.records.shape_model import (
    CaseQuality,
    LabelQuality,
    PredictionQuality,
    ShapeModels,
)
from selfseg.workspace.network import FoldFolder

log = logging.getLogger(__name__)

QUALITY_FILE = "quality.json"
CPU = torch.device("cpu")


@dataclass(frozen=True)
class LabelShape:
    """The accepted shape model of a label, from one fold.

    Attributes:
        name: Label or region.
        model: In main memory.
        axes: Order in which it takes the axes of a canonical image.
        low: Scores below are low.
    """

    name: str
    model: ShapeModel
    axes: tuple[int, int, int]
    low: float


def load_shapes(files: FoldFolder) -> tuple[LabelShape, ...]:
    """Return the accepted shape models of a trained fold; none where none were made.

    Raises:
        ModelError, RecordError: A file is damaged.
    """
    if not files.shapes.is_file():
        return ()
    record = serial.load(ShapeModels, files.shapes)
    return tuple(
        LabelShape(item.name, model, record.axes, item.low)
        for item, model in load_accepted(record, files.shape_tensors, CPU)
    )


@torch.no_grad()
def shape_score(mask: torch.Tensor, model: ShapeModel) -> float:
    """Return the quality score of a mask (z, y, x) bool, in the axes of the model; 0 if empty."""
    if not mask.any():
        return 0.0
    low, high = bounds(mask).tolist()
    box = ShapeBox(tuple(map(float, low)), tuple(map(float, high))).grown(model.margin)
    part = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    moved = ShapeBox(
        tuple(a - b for a, b in zip(box.lower, low, strict=True)),
        tuple(a - b for a, b in zip(box.upper, low, strict=True)),
    )
    maps = sample_box(mask[part][None].float(), moved, model.grid)[None]
    return float(dice(maps, model.reconstruct(maps))[0])


@dataclass
class QualityMeter:
    """Scores label maps one by one, with the shape models of all folds of all members.

    Attributes:
        shapes: Of all folds and members; the scores of a label are averaged over its models.
        targets: What the label maps show.
        cases: Scores so far.
    """

    shapes: Sequence[LabelShape]
    targets: Targets
    cases: list[CaseQuality] = field(default_factory=list)

    def add(self, case: str, indices: Indices) -> None:
        """Score canonical label indices (Z, Y, X); warn where a score is low."""
        if not self.shapes:
            return
        labels = []
        for name, members in zip(self.targets.names, self.targets.members, strict=True):
            models = [shape for shape in self.shapes if shape.name == name]
            if not models:
                continue
            mask = np.isin(indices, members)
            scores = [
                shape_score(torch.from_numpy(mask.transpose(shape.axes)), shape.model)
                for shape in models
            ]
            low = float(np.mean([shape.low for shape in models]))
            labels.append(LabelQuality(name=name, score=float(np.mean(scores)), low=low))
        self.cases.append(CaseQuality(case=case, labels=tuple(labels)))
        for label in labels:
            if label.is_low:
                log.warning(
                    "%s: %s has an unusual shape (quality %.3f; references are seldom below "
                    "%.3f): look at this case",
                    case,
                    label.name,
                    label.score,
                    label.low,
                )

    def of(self, case: Case) -> CaseQuality | None:
        """Return the scores of a case; None if it has none."""
        return next((scored for scored in self.cases if scored.case == case.id), None)

    def save(self, folder: Path) -> None:
        """Write quality.json beside the label maps, if anything was scored."""
        if self.cases:
            serial.save(PredictionQuality(cases=tuple(self.cases)), folder / QUALITY_FILE)
