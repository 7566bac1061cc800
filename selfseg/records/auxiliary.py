"""A second data set that a training borrows from."""

from __future__ import annotations

from pydantic import Field

from selfseg.records.serial import Record


class Auxiliary(Record):
    """How a second data set takes part in training (methods 4.2, V2; our reading).

    Every batch has samples of both; the loss is that of the primary ones plus `β` times that of
    the auxiliary ones. β goes along a cosine from `first_weight` to `last_weight`. In the last part
    of the run whole batches are primary.

    Attributes:
        name: Of the data set.
        share: Of a batch that are its samples; at least one is, and at least one is not.
        first_weight, last_weight: β at the beginning, and at the end of the common part.
        primary_only: Share of the run, at its end, that is trained on the primary data set alone.
    """

    name: str
    share: float = Field(default=0.5, gt=0.0, lt=1.0)
    first_weight: float = Field(default=1.0, ge=0.0)
    last_weight: float = Field(default=0.1, ge=0.0)
    primary_only: float = Field(default=0.1, ge=0.0, lt=1.0)

    def samples(self, batch: int) -> int:
        """Return how many samples of a batch are auxiliary."""
        return min(max(round(self.share * batch), 1), batch - 1)

    def is_over(self, progress: float) -> bool:
        """Tell whether only primary samples are left when a share of the run is over."""
        return progress >= 1 - self.primary_only
