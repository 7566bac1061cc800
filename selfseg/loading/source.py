"""Make the batch of any step: draw cases, transforms and positions, load, augment.

The batch of a step is a pure function of seed and step; this is what a worker process runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from selfseg.augmentation.draw import SampleDraw, draw_sample
from selfseg.augmentation.geometry import loaded_patch
from selfseg.errors import SelfSegError
from selfseg.loading.patches import CaseFolder
from selfseg.loading.sampling import corner_around, draw_location, is_forced, random_corner
from selfseg.records.plan import Configuration
from selfseg.records.preprocessing import ZScore

_VALIDATION_STREAM = 1

Sample = tuple[npt.NDArray[np.float32], npt.NDArray[np.int16], SampleDraw]


@dataclass(frozen=True)
class Batch:
    """What a training step takes.

    Attributes:
        image: (b, c, *patch) float32.
        label: (b, *patch) int64 label indices, all ≥ 0; without the context slices.
    """

    image: Tensor
    label: Tensor


@dataclass(frozen=True)
class LoadedBatch:
    """Loaded patches with the draws that are still to be applied to them."""

    images: list[Tensor]
    labels: list[Tensor]
    draws: list[SampleDraw]

    def __getstate__(self) -> dict[str, object]:
        """Pack the arrays into one each: every one that leaves a worker takes a file handle."""
        shapes = [tuple(label.shape) for label in self.labels]
        channels = self.images[0].shape[0]
        image = torch.cat([image.flatten() for image in self.images])
        label = torch.cat([label.flatten() for label in self.labels])
        return {"packed": (image, label, shapes, channels), "draws": self.draws}

    def __setstate__(self, state: dict[str, Any]) -> None:
        image, label, shapes, channels = state["packed"]
        sizes = [math.prod(shape) for shape in shapes]
        images = image.split([channels * size for size in sizes])
        pairs = zip(images, label.split(sizes), shapes, strict=True)
        parts = [(i.view(channels, *shape), part.view(shape)) for i, part, shape in pairs]
        self.__dict__.update(
            images=[i for i, _ in parts], labels=[part for _, part in parts], draws=state["draws"]
        )

    def pin_memory(self) -> LoadedBatch:
        """Move the arrays to page-locked memory (called by the loader)."""
        return LoadedBatch(
            [image.pin_memory() for image in self.images],
            [label.pin_memory() for label in self.labels],
            self.draws,
        )


@dataclass(frozen=True)
class Failure:
    """A user's error on its way out of a worker; torch would drop its remedy."""

    error: SelfSegError


Item = Batch | LoadedBatch | Failure


class BatchSource(Dataset[Item]):
    """Batches by step number.

    Args:
        configuration: Patch, batch, augmentation, normalization, share of forced samples.
        cases: Where samples come from.
        seed: Seed of all steps.
        augment: False leaves out all random transforms (validation).
        finish: True applies the draws here, on the CPU.
    """

    def __init__(
        self,
        configuration: Configuration,
        cases: CaseFolder,
        *,
        seed: int,
        augment: bool,
        finish: bool,
    ) -> None:
        self.configuration = configuration
        self.cases = cases
        self.seed = seed
        self.augment = augment
        self.finish = finish

    def __getitem__(self, step: int) -> Item:
        try:
            return self._make(step)
        except SelfSegError as error:
            return Failure(error)

    def _make(self, step: int) -> Batch | LoadedBatch:
        stream = [self.seed, step] if self.augment else [self.seed, step, _VALIDATION_STREAM]
        rng = np.random.default_rng(stream)
        samples = [self._load(index, rng) for index in range(self.configuration.batch)]
        if self.finish:
            return self._finish(samples)
        return LoadedBatch(
            [torch.from_numpy(image) for image, _, _ in samples],
            [torch.from_numpy(label) for _, label, _ in samples],
            [draw for _, _, draw in samples],
        )

    def _load(self, index: int, rng: np.random.Generator) -> Sample:
        """Draw case, transforms and position of one sample and cut it."""
        options = self.configuration
        chosen = int(rng.integers(len(self.cases)))
        case = self.cases[chosen]
        draw = SampleDraw()
        if self.augment:
            draw = draw_sample(
                options.augmentation, channels=case.image.shape[0], patch=options.patch, rng=rng
            )
        flat, context = len(options.patch) == 2, options.context
        final = (1, *options.patch) if flat else options.patch
        loaded = loaded_patch(draw, options.patch)
        loaded = (1, *loaded) if flat else loaded
        # Slices that are seen but not segmented take no part in choosing the position.
        final = (final[0] - 2 * context, *final[1:])
        loaded = (loaded[0] - 2 * context, *loaded[1:])
        voxel = None
        if is_forced(index, options.batch, options.optimization.foreground_share):
            voxel = draw_location(case.counts, case.locations.__getitem__, rng)
        if voxel is None:
            corner = random_corner(loaded, final, case.shape, rng)
        else:
            corner = corner_around(voxel, loaded, final, case.shape)
        image, label = self.cases.cut(chosen, corner, loaded, context=context)
        return (image[:, 0], label[0], draw) if flat else (image, label, draw)

    def _finish(self, samples: Sequence[Sample]) -> Batch:
        from selfseg.augmentation.cpu import apply_cpu

        patch, masked = self.configuration.patch, masked_channels(self.configuration)
        done = [
            apply_cpu(image, label, draw, patch, masked=masked) for image, label, draw in samples
        ]
        batch = Batch(
            torch.from_numpy(np.stack([image for image, _ in done])),
            torch.from_numpy(np.stack([label for _, label in done]).astype(np.int64)),
        )
        return segmented_part(batch, self.configuration)


def segmented_part(batch: Batch, configuration: Configuration) -> Batch:
    """Return a batch whose label has only the slices that the network segments."""
    context = configuration.context
    if not context:
        return batch
    return Batch(batch.image, batch.label[:, context:-context])


def masked_channels(configuration: Configuration) -> tuple[int, ...]:
    """Return the channels that are 0 outside the nonzero mask by normalization."""
    return tuple(
        channel
        for channel, options in enumerate(configuration.preprocessing.normalization)
        if isinstance(options, ZScore) and options.inside_mask
    )
