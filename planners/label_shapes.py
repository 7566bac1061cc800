"""The shapes of all labels, as the rules on losses look at them."""

from __future__ import annotations

from dataclasses import dataclass

from selfseg.records.dataset import Dataset
from selfseg.records.fingerprint import Fingerprint
from selfseg.records.plan import Configuration
from selfseg.records.serial import Triple
from selfseg.records.shapes import ShapeSummary

from .rarity import class_voxels
from .shapes import is_tubular

# Median step of intensity at the border over the spread inside, below which the border is faint.
FAINT_CONTRAST = 1.0


@dataclass(frozen=True)
class LabelShape:
    """A label with what is known of its shape.

    Attributes:
        name: Of the label.
        voxels: Median number, over the cases that have it.
        shape: Over these cases.
        extents_mm: Size of its box in each of them, canonical axes.
    """

    name: str
    voxels: float
    shape: ShapeSummary
    extents_mm: tuple[Triple, ...] = ()

    @property
    def contrast(self) -> float | None:
        """Of the channel that shows the border best; None if none does."""
        return max((c for c in self.shape.median_contrast if c is not None), default=None)

    @property
    def is_faint(self) -> bool:
        """The border steps by less than the spread of intensities inside."""
        return self.contrast is not None and self.contrast < FAINT_CONTRAST


@dataclass(frozen=True)
class Shapes:
    """All labels that occur, and how many cases there are.

    Attributes:
        labels: With their shapes.
        rarity: Share of the voxels of each label, background first; None if unknown.
        cases: Number of training cases.
    """

    labels: tuple[LabelShape, ...]
    rarity: tuple[float, ...] | None
    cases: int

    @property
    def tubular(self) -> tuple[str, ...]:
        """Names of the labels that consist of tubes."""
        return tuple(item.name for item in self.labels if is_tubular(item.shape).holds)


def gather_shapes(dataset: Dataset, fingerprint: Fingerprint) -> Shapes:
    """Collect what is known of the labels; regions are not measured, so of them nothing is."""
    if dataset.regions:
        return Shapes((), None, len(fingerprint.cases))
    labels = tuple(
        LabelShape(label.name, label.median_voxels, label.shape, _extents_mm(fingerprint, index))
        for index, label in enumerate(fingerprint.labels)
        if label.shape is not None
    )
    return Shapes(labels, _frequencies(fingerprint), len(fingerprint.cases))


def network_spacing_mm(configuration: Configuration) -> tuple[float, ...]:
    """Return the working spacing of each axis of the network."""
    spacing = configuration.preprocessing.spacing_mm[-len(configuration.patch) :]
    return tuple(value for value in spacing if value is not None)


def _extents_mm(fingerprint: Fingerprint, index: int) -> tuple[Triple, ...]:
    facts = [case.labels[index] for case in fingerprint.cases]
    return tuple(fact.extent_mm for fact in facts if fact.voxels)


def _frequencies(fingerprint: Fingerprint) -> tuple[float, ...] | None:
    """Return the share of the annotated voxels of each class, background first."""
    counts = class_voxels(fingerprint)
    if len(counts) < 2 or min(counts) <= 0:
        return None
    return tuple(count / sum(counts) for count in counts)
