"""Which labelled images a trained model has seen: its own, borrowed ones, those of its start."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from selfseg.errors import ModelError, RecordError
from selfseg.inference.find import Candidate, choose_model
from selfseg.inference.trained import PlannedDataset, model_digest
from selfseg.records import serial
from selfseg.records.dataset import Dataset
from selfseg.records.model import TrainedFold
from selfseg.records.transfer import PRETRAINED, StartModel


@dataclass(frozen=True)
class Seen:
    """Digests of image files; and the models, in words, of which they are not known."""

    images: frozenset[str] = frozenset()
    unknown: tuple[str, ...] = ()

    def __or__(self, other: Seen) -> Seen:
        return Seen(self.images | other.images, (*self.unknown, *other.unknown))


def seen_images(candidate: Candidate, trained: TrainedFold) -> Seen:
    """Return what a fold has seen: its cases, an auxiliary data set, all that its start has seen.

    Args:
        candidate: Where it lies.
        trained: How it was trained.
    """
    own = _own(candidate, trained)
    return own if trained.start is None else own | _of_start(trained.start)


def image_digests(dataset: Dataset, cases: Collection[str] | None = None) -> frozenset[str]:
    """Return the digests of the images of some cases; None: of all."""
    return frozenset(
        file.digest
        for case in dataset.cases
        if cases is None or case.id in cases
        for file in case.images
        if file.digest
    )


def _own(candidate: Candidate, trained: TrainedFold) -> Seen:
    folder, plan, configuration = candidate.folder, candidate.plan, candidate.configuration
    title = f"{plan.dataset} {configuration.name} fold {trained.fold} ({folder.path})"
    images: frozenset[str] = frozenset()
    try:
        dataset = serial.load(Dataset, folder.dataset)
        images = image_digests(dataset, trained.train_cases)
        if plan.borrowed(configuration) is not None:
            images |= image_digests(serial.load(Dataset, folder.auxiliary))
        known = PlannedDataset(folder, plan, dataset)
        now = known.data_digest(configuration, trained.train_cases)
    except RecordError:  # imported, or only its models were copied
        return Seen(images, (title,))
    is_known = bool(trained.train_cases) and now == trained.data_digest
    return Seen(images, () if is_known else (title,))


def _of_start(start: StartModel) -> Seen:
    if start.fold == PRETRAINED:  # without labels
        return Seen()
    try:
        found = choose_model(Path(start.folder), start.configuration, [start.fold])
        files = found.folder.fold(found.configuration.name, start.fold)
        trained = serial.load(TrainedFold, files.description)
    except (ModelError, RecordError):
        return Seen(unknown=(start.title,))
    if model_digest(found.folder, found.configuration, start.fold) != start.digest:
        return Seen(unknown=(start.title,))
    return seen_images(found, trained)
