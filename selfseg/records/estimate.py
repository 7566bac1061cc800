"""A mean with its bootstrap interval."""

from __future__ import annotations

from selfseg.records.serial import Record


class Estimate(Record):
    """A mean and its bootstrap interval."""

    value: float
    lower: float
    upper: float
