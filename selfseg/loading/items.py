"""A batch on its way to the network: placed, loaded, or finished; or why there is none."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from selfseg.augmentation.draw import SampleDraw
from selfseg.errors import SelfSegError


@dataclass(frozen=True)
class Batch:
    """What a training step takes.

    Attributes:
        image: (b, c, *patch) float32.
        label: (b, *patch) int64 label indices, all ≥ 0; without the context slices. What is not
            annotated has the index above the labels'.
        maps: (b, m, *patch) int16 what the loss needs besides, without the context slices; None if
            nothing.
    """

    image: Tensor
    label: Tensor
    maps: Tensor | None = None


@dataclass(frozen=True)
class LoadedBatch:
    """Loaded patches with the draws that are still to be applied to them.

    In a cascade `previous` is the previous stage's segmentation (b, *patch) int16, and `maps` is
    what the loss needs besides the label (b, m, *patch) int16; to both the draws have been applied.
    """

    images: list[Tensor]
    labels: list[Tensor]
    draws: list[SampleDraw]
    previous: Tensor | None = None
    maps: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        others = [part for part in (self.previous, self.maps) if part is not None]
        return sum(part.nbytes for part in (*self.images, *self.labels, *others))

    def __getstate__(self) -> dict[str, object]:
        """Pack the arrays into one each: every one that leaves a worker takes a file handle."""
        shapes = [tuple(label.shape) for label in self.labels]
        channels = self.images[0].shape[0]
        image = torch.cat([image.flatten() for image in self.images])
        label = torch.cat([label.flatten() for label in self.labels])
        packed = (image, label, shapes, channels)
        kept = {"draws": self.draws, "previous": self.previous, "maps": self.maps}
        return {"packed": packed, **kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        image, label, shapes, channels = state["packed"]
        sizes = [math.prod(shape) for shape in shapes]
        images = image.split([channels * size for size in sizes])
        pairs = zip(images, label.split(sizes), shapes, strict=True)
        parts = [(i.view(channels, *shape), part.view(shape)) for i, part, shape in pairs]
        self.__dict__.update(
            images=[i for i, _ in parts],
            labels=[part for _, part in parts],
            draws=state["draws"],
            previous=state["previous"],
            maps=state["maps"],
        )

    def pin_memory(self) -> LoadedBatch:
        """Move the arrays to page-locked memory (called by the loader)."""
        return LoadedBatch(
            [image.pin_memory() for image in self.images],
            [label.pin_memory() for label in self.labels],
            self.draws,
            None if self.previous is None else self.previous.pin_memory(),
            None if self.maps is None else self.maps.pin_memory(),
        )


class Place(NamedTuple):
    """Where a sample is cut: position of the case, corner and shape without context slices."""

    case: int
    corner: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class PlacedBatch:
    """Samples that a device which holds the cases is to cut.

    Attributes:
        places: One for each sample.
        draws: Transforms that are still to be applied.
        context: Slices that are added at either end.
        flat: Whether samples are single slices, for a 2D network.
    """

    places: tuple[Place, ...]
    draws: tuple[SampleDraw, ...]
    context: int
    flat: bool


@dataclass(frozen=True)
class Failure:
    """A user's error on its way out of a worker; torch would drop its remedy."""

    error: SelfSegError


Made = Batch | LoadedBatch | PlacedBatch
Item = Made | Failure
