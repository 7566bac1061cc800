"""Held-out cases as a dense CRF sees them: probabilities and image in the box that it refines."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from selfseg.arrays import Indices
from selfseg.inference.probability_sum import STORED_CERTAIN
from selfseg.inference.refinement import Place, image_around
from selfseg.postprocessing.crf_tuning import Volumes
from selfseg.records.dataset import Targets
from selfseg.records.preprocessing import Preprocessing
from selfseg.selection.scoring import HeldOut, Reference, predicted, read_reference, stored


@dataclass(frozen=True)
class Field:
    """A held-out case as tuning and judging see it (`TuningCase`)."""

    case: HeldOut
    members: tuple[str, ...]
    targets: Targets
    preprocessing: Preprocessing
    most_voxels: int

    @property
    def id(self) -> str:
        """Which case."""
        return self.case.id

    @property
    def fold(self) -> str:
        """The fold that held it out."""
        return self.case.fold

    def read(self) -> Volumes:
        """Return the box of prediction and reference with the margin of a CRF, thinned out."""
        reference = read_reference(self.case.reference, self.targets)
        indices = predicted(self.case, self.members, self.targets)
        inside = (reference.indices > 0) & (reference.indices <= len(self.targets.labels))
        either = ((indices > 0) | inside).astype(np.uint8)
        found = self.parts(either, reference)
        if found is None:  # nothing to score: a voxel of background
            none = torch.zeros((len(self.targets.names), 1, 1))
            image = torch.zeros((len(self.preprocessing.normalization), 1, 1))
            return Volumes(none, image, np.zeros((1, 1), np.int16), (1.0, 1.0), self.targets)
        place, foreground, image = found
        ignored = self.targets.ignore_index
        known = None if ignored is None else reference.indices[place] != ignored
        volumes = Volumes(
            foreground, image, reference.indices[place], reference.spacing_mm, self.targets, known
        )
        return thinned(volumes, self.most_voxels)

    def parts(self, indices: Indices, reference: Reference) -> tuple[Place, Tensor, Tensor] | None:
        """Return the box around label indices, mean probabilities and normalized image in it."""
        found = image_around(self.case.images, self.preprocessing, indices, reference.spacing_mm)
        if found is None:
            return None
        place, image = found
        sources = [source[(slice(None), *place)] for source in stored(self.case, self.members)]
        foreground = np.zeros(sources[0].shape, np.float32)
        for values in sources:
            foreground += values
        foreground /= STORED_CERTAIN * len(sources)
        return place, torch.from_numpy(foreground), torch.from_numpy(image)


def thinned(volumes: Volumes, most_voxels: int) -> Volumes:
    """Return every second, third, … voxel along the finest axes, so that at most so many stay."""
    shape, spacing = volumes.reference.shape, np.array(volumes.spacing_mm)
    steps = np.ones(len(shape), int)
    while math.prod(-(-np.array(shape) // steps)) > most_voxels:
        axis = min(
            (axis for axis, size in enumerate(shape) if size > steps[axis]),
            key=lambda axis: spacing[axis] * steps[axis],
        )
        steps[axis] += 1
    kept = tuple(slice(None, None, int(step)) for step in steps)
    return Volumes(
        volumes.foreground[(slice(None), *kept)],
        volumes.image[(slice(None), *kept)],
        volumes.reference[kept],
        tuple((spacing * steps).tolist()),
        volumes.targets,
        None if volumes.known is None else volumes.known[kept],
    )
