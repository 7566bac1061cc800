"""Make the batch of any step: draw cases, transforms and positions, load, augment.

The batch of a step is a pure function of seed and step; this is what a worker process runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from selfseg.augmentation.draw import SampleDraw, draw_sample
from selfseg.augmentation.geometry import loaded_patch
from selfseg.errors import SelfSegError
from selfseg.loading.items import Batch, Failure, Item, LoadedBatch, Made, Place, PlacedBatch
from selfseg.loading.patches import CaseFolder, PreviousStage
from selfseg.loading.sampling import forced_samples
from selfseg.networks.one_hot import one_hot
from selfseg.records.loss_maps import needed_maps
from selfseg.records.plan import Configuration
from selfseg.records.preprocessing import ZScore

_VALIDATION_STREAM = 1

Indices = npt.NDArray[np.int16]


class Sample(NamedTuple):
    """One loaded sample, and the draw that is still to be applied to image and label.

    Attributes:
        image: (c, *loaded).
        label: (*loaded).
        draw: Transforms.
        previous: The previous stage's segmentation (*patch), with its draw; None elsewhere.
        maps: What the loss needs (m, *patch), with the draw; None if nothing.
    """

    image: npt.NDArray[np.float32]
    label: Indices
    draw: SampleDraw
    previous: Indices | None
    maps: Indices | None


class BatchSource(Dataset[Item]):
    """Batches by step number.

    Args:
        configuration: Patch, batch, augmentation, normalization, share of forced samples.
        cases: Where samples come from.
        seed: Seed of all steps.
        augment: False leaves out all random transforms (validation).
        finish: True applies the draws here, on the CPU.
        cut: False leaves cutting, too, to a device that holds the cases.
        part: Samples of a batch that are made, its beginning or its end; None makes all.
    """

    def __init__(
        self,
        configuration: Configuration,
        cases: CaseFolder,
        *,
        seed: int,
        augment: bool,
        finish: bool,
        cut: bool = True,
        part: range | None = None,
    ) -> None:
        self.configuration = configuration
        self.cases = cases
        self.seed = seed
        self.augment = augment
        self.finish = finish
        self.cut = cut
        self.part = range(configuration.batch) if part is None else part

    def __getitem__(self, step: int) -> Item:
        try:
            return self._make(step)
        except SelfSegError as error:
            return Failure(error)

    def _make(self, step: int) -> Made:
        stream = [self.seed, step] if self.augment else [self.seed, step, _VALIDATION_STREAM]
        rng = np.random.default_rng(stream)
        options, count = self.configuration, len(self.part)
        share = options.optimization.foreground_share
        free = count - forced_samples(options.batch, share, self.part, step)
        drawn = (self._draw(rng, forced=index >= free) for index in range(count))
        if not self.cut:
            places, draws = zip(*drawn, strict=True)
            return PlacedBatch(places, draws, options.context, flat=len(options.patch) == 2)
        samples = [self._load(place, draw) for place, draw in drawn]
        if self.finish:
            return self._finish(samples)
        return LoadedBatch(
            [torch.from_numpy(sample.image) for sample in samples],
            [torch.from_numpy(sample.label) for sample in samples],
            [sample.draw for sample in samples],
            _stack([sample.previous for sample in samples]),
            _stack([sample.maps for sample in samples]),
        )

    def _draw(self, rng: np.random.Generator, *, forced: bool) -> tuple[Place, SampleDraw]:
        """Draw case, transforms and position of one sample."""
        options = self.configuration
        chosen = int(rng.integers(len(self.cases)))
        case = self.cases[chosen]
        draw = SampleDraw()
        if self.augment:
            draw = draw_sample(
                options.augmentation,
                channels=case.image.shape[0],
                patch=options.patch,
                rng=rng,
                previous_labels=self.cases.previous.labels if self.cases.previous else 0,
            )
        flat, context = len(options.patch) == 2, options.context
        final = (1, *options.patch) if flat else options.patch
        loaded = loaded_patch(draw, options.patch)
        loaded = (1, *loaded) if flat else loaded
        # Slices that are seen but not segmented take no part in choosing the position.
        final = (final[0] - 2 * context, *final[1:])
        loaded = (loaded[0] - 2 * context, *loaded[1:])
        area = self.cases.draw_area(chosen, rng)
        corner = area.draw_corner(loaded, final, rng, forced=forced)
        return Place(chosen, corner, tuple(loaded)), draw

    def _load(self, place: Place, draw: SampleDraw) -> Sample:
        """Cut one sample, and what belongs to it."""
        image, label = self.cases.cut(*place, context=self.configuration.context)
        if len(self.configuration.patch) == 2:
            image, label = image[:, 0], label[0]
        previous, maps = self._load_previous(place, draw), self._load_maps(place, draw)
        return Sample(image, label, draw, previous, maps)

    def _load_previous(self, place: Place, draw: SampleDraw) -> Indices | None:
        """Cut the previous stage's segmentation of a sample and apply its draw, on any device.

        Morphology follows the spatial transforms and is made for CPUs, so both are done here.
        """
        label = self.cases.cut_previous(*place)
        if label is None:
            return None
        from selfseg.augmentation.previous import apply_previous

        patch = self.configuration.patch
        return apply_previous(label[0] if len(patch) == 2 else label, draw, patch)

    def _load_maps(self, place: Place, draw: SampleDraw) -> Indices | None:
        """Cut what the loss needs of a sample and apply its draw, on any device."""
        patch, context = self.configuration.patch, self.configuration.context
        low = (place.corner[0] - context, *place.corner[1:])
        shape = (place.shape[0] + 2 * context, *place.shape[1:])
        maps = self.cases.cut_maps(place.case, low, shape)
        if maps is None:
            return None
        from selfseg.augmentation.cpu import place_maps

        wanted = needed_maps(self.configuration.loss)
        each = len(maps) // len(wanted)
        linear = tuple(item.kind == "distance" for item in wanted for _ in range(each))
        placed = place_maps(maps[:, 0] if len(patch) == 2 else maps, draw, patch, linear=linear)
        return placed[:, context : patch[0] - context] if context else placed

    def _finish(self, samples: Sequence[Sample]) -> Batch:
        from selfseg.augmentation.cpu import apply_cpu

        patch, masked = self.configuration.patch, masked_channels(self.configuration)
        done = [
            apply_cpu(sample.image, sample.label, sample.draw, patch, masked=masked)
            for sample in samples
        ]
        batch = Batch(
            torch.from_numpy(np.stack([image for image, _ in done])),
            torch.from_numpy(np.stack([label for _, label in done]).astype(np.int64)),
            _stack([sample.maps for sample in samples]),
        )
        batch = segmented_part(batch, self.configuration)
        previous = _stack([sample.previous for sample in samples])
        return with_previous(batch, previous, self.cases.previous)


def _stack(parts: Sequence[Indices | None]) -> Tensor | None:
    """Return the arrays of all samples as one; None without them."""
    present = [part for part in parts if part is not None]
    return torch.from_numpy(np.stack(present)) if present else None


def with_previous(batch: Batch, previous: Tensor | None, stage: PreviousStage | None) -> Batch:
    """Append the previous stage's segmentations to the image, one channel a label.

    Args:
        batch: Images and labels.
        previous: Label indices (b, *patch); copied to the batch's device.
        stage: Says how many labels there are; None leaves the batch as it is.
    """
    if stage is None or previous is None:
        return batch
    label = previous.to(batch.image.device, non_blocking=True)
    image = torch.cat([batch.image, one_hot(label.unsqueeze(1), stage.labels)], dim=1)
    return replace(batch, image=image)


def segmented_part(batch: Batch, configuration: Configuration) -> Batch:
    """Return a batch whose label has only the slices that the network segments."""
    context = configuration.context
    if not context:
        return batch
    return replace(batch, label=batch.label[:, context:-context])


def masked_channels(configuration: Configuration) -> tuple[int, ...]:
    """Return the channels that are 0 outside the nonzero mask by normalization."""
    return tuple(
        channel
        for channel, options in enumerate(configuration.preprocessing.normalization)
        if isinstance(options, ZScore) and options.inside_mask
    )
