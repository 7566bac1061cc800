"""Which labelled images a trained model has seen: its own, borrowed ones, those of its start.

Another image of a patient whom it has seen counts as seen.
"""

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
    """What models were trained on.

    Attributes:
        images: Digests of image files.
        groups: Names of data sets, and of groups in them.
        unknown: Models, in words, of which it is not known.
    """

    images: frozenset[str] = frozenset()
    groups: frozenset[tuple[str, str]] = frozenset()
    unknown: tuple[str, ...] = ()

    def __or__(self, other: Seen) -> Seen:
        unknown = (*self.unknown, *other.unknown)
        return Seen(self.images | other.images, self.groups | other.groups, unknown)

    @classmethod
    def of(cls, dataset: Dataset, cases: Collection[str] | None = None) -> Seen:
        """Return what some cases of a data set show; None: all."""
        chosen = [case.id for case in dataset.cases] if cases is None else cases
        groups = ((dataset.name, group) for group in dataset.groups(chosen))
        wanted = set(chosen)
        files = (file for case in dataset.cases if case.id in wanted for file in case.images)
        return cls(frozenset(file.digest for file in files if file.digest), frozenset(groups))

    def cases(self, dataset: Dataset) -> frozenset[str]:
        """Return ids of the cases of a data set of which an image was seen."""
        return frozenset(
            case.id
            for case in dataset.cases
            if any(file.digest in self.images for file in case.images)
        )

    def mates(self, dataset: Dataset) -> frozenset[str]:
        """Return ids of the cases of a data set whose group was seen, perhaps with other images."""
        return frozenset(c.id for c in dataset.cases if (dataset.name, c.group) in self.groups)


def seen_images(candidate: Candidate, trained: TrainedFold) -> Seen:
    """Return what a fold has seen: its cases, an auxiliary data set, all that its start has seen.

    Args:
        candidate: Where it lies.
        trained: How it was trained.
    """
    own = _own(candidate, trained)
    return own if trained.start is None else own | _of_start(trained.start)


def _own(candidate: Candidate, trained: TrainedFold) -> Seen:
    folder, plan, configuration = candidate.folder, candidate.plan, candidate.configuration
    title = f"{plan.dataset} {configuration.name} fold {trained.fold} ({folder.path})"
    seen = Seen()
    try:
        dataset = serial.load(Dataset, folder.dataset)
        seen = Seen.of(dataset, trained.train_cases)
        if plan.borrowed(configuration) is not None:
            seen |= Seen.of(serial.load(Dataset, folder.auxiliary))
        known = PlannedDataset(folder, plan, dataset)
        now = known.data_digest(configuration, trained.train_cases)
    except RecordError:  # imported, or only its models were copied
        return seen | Seen(unknown=(title,))
    is_known = bool(trained.train_cases) and now == trained.data_digest
    return seen if is_known else seen | Seen(unknown=(title,))


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
