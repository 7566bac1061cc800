"""Probabilities of one image on its canonical grid: summed over members, decoded, stored.

All configurations meet on this grid, whatever their spacing. Sums live where logits may live: in
memory where there is room, else in a scratch file, so memory does not grow with the labels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from selfseg.arrays import Indices
from selfseg.inference.decode import decode
from selfseg.inference.logit_store import LogitStore
from selfseg.io.store import save_slabs
from selfseg.preprocessing.axes import canonical_shape
from selfseg.preprocessing.foreground import foreground_tiles
from selfseg.records.dataset import Targets
from selfseg.records.geometry import PreprocessedCase
from selfseg.records.preprocessing import Resampling

STORED_CERTAIN = 255  # what stands in a file where a probability is 1
# Of what one image's logits may take: sums stand beside the logits of two images.
SHARE_OF_LOGITS = 0.5


class ProbabilitySum:
    """Mean foreground probabilities (c, Z, Y, X) in the order of `targets.names`.

    Args:
        targets: What the channels mean.
        record: Gives the canonical grid.
        store: Where logits lie; the sums get a share of its memory.
    """

    def __init__(self, targets: Targets, record: PreprocessedCase, store: LogitStore) -> None:
        self.targets = targets
        self._logits = store
        self._store = LogitStore(store.budget.part(SHARE_OF_LOGITS), folder=store.folder)
        shape = (len(targets.names), *canonical_shape(record))
        self.values = self._store.allocate(shape, torch.device("cpu"))

    def add(
        self, logits: Tensor, record: PreprocessedCase, resampling: Resampling, *, share: float
    ) -> None:
        """Add the probabilities of logits (k, Z, Y, X) on a working grid, times `share`."""
        limit = self._logits.budget.export_gib()
        with self._logits.reading(logits):
            tiles = foreground_tiles(
                logits, record, resampling, targets=self.targets, max_gib=limit
            )
            for place, part in tiles:
                self._store.add(self.values, place, torch.from_numpy(part).mul_(share))

    def label_map(self) -> Indices:
        """Return label indices (Z, Y, X)."""
        with self._store.reading(self.values):
            return decode([self.values.numpy()], self.targets, full=1.0)

    def part(self, place: tuple[slice, slice, slice]) -> Tensor:
        """Return the probabilities (c, z, y, x) of a box as float32."""
        with self._store.reading(self.values):
            return self.values[(slice(None), *place)].to(torch.float32, copy=True)

    def replace(self, place: tuple[slice, slice, slice], values: Tensor) -> None:
        """Put other probabilities (c, z, y, x) into a box."""
        with self._store.reading(self.values):
            self.values[(slice(None), *place)] = values.to(self.values.dtype)

    def save(self, path: Path) -> None:
        """Store the probabilities as 8-bit numbers, compressed; all or nothing."""

        def part(channel: int, z: slice, y: slice) -> npt.NDArray[np.uint8]:
            values = self.values[channel, z, y].float().mul(STORED_CERTAIN).round()
            return values.to(torch.uint8).numpy()

        with self._store.reading(self.values):
            save_slabs(part, self.values.shape, path)

    def with_background(self) -> npt.NDArray[np.float16]:
        """Return all probabilities in memory: of labels after background, or of regions."""
        values = self.values.to(torch.float16).numpy()
        if self.targets.regions:
            return values
        background = (1 - self.values.float().sum(0)).clamp_(min=0).to(torch.float16).numpy()
        return np.concatenate([background[None], values])
