"""`selfseg measure` and `selfseg classify` as functions: read, run stages in a row, write."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from selfseg.errors import SelfSegError
from selfseg.execution.processes import default_workers
from selfseg.records import serial
from selfseg.records.classification import ClassificationScores, ClassifierModel, FeatureKind
from selfseg.records.measurement import MeasurementTable

if TYPE_CHECKING:
    from selfseg.classification.files import Prediction
    from selfseg.classification.train import Training
    from selfseg.inference.model import Model

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NetworkRequest:
    """Which segmentation network deep features come from: a model folder or file."""

    model: Path
    configuration: str | None = None
    fold: str | None = None
    device: str = "auto"


@dataclass(frozen=True, kw_only=True)
class ClassifyRequest:
    """Options of `classify train`."""

    images: Path
    masks: tuple[Path, ...]
    labels: Path
    output: Path
    label_column: str = "label"
    positive: str | None = None
    region: str | None = None
    features: FeatureKind = "radiomics"
    network: NetworkRequest | None = None
    planner: str = "default"
    workers: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class ClassifierFolder:
    """Files that `classify train` writes."""

    path: Path

    @property
    def model(self) -> Path:
        """ClassifierModel record; written last."""
        return self.path / "model.json"

    @property
    def out_of_fold(self) -> Path:
        """Probability of every labeled region by the fold that did not see its patient."""
        return self.path / "out_of_fold.csv"

    @property
    def chosen(self) -> Path:
        """Chosen features with importances."""
        return self.path / "chosen_features.csv"

    @property
    def features(self) -> Path:
        """All features of all labeled regions."""
        return self.path / "features.csv"

    @property
    def scores(self) -> Path:
        """ClassificationScores record, out of fold."""
        return self.path / "scores.json"

    @property
    def roc(self) -> Path:
        """Receiver operating characteristic, out of fold."""
        return self.path / "roc.png"

    @property
    def calibration(self) -> Path:
        """Predicted probability against share of positives, out of fold."""
        return self.path / "calibration.png"


def measure_lesions(
    masks: Path, images: Path | None, *, output: Path | None, workers: int | None
) -> MeasurementTable:
    """Measure every lesion of a folder of label maps; write `output`.json and .csv if wanted."""
    from selfseg.evaluation.measure import measure_folders, write_measurements

    table = measure_folders(masks, images, workers=default_workers(workers))
    if output is not None:
        write_measurements(table, output)
    return table


def train_classifier(request: ClassifyRequest) -> Training:
    """Train a classifier and write model, probabilities, features, scores and pictures.

    Raises:
        DatasetError: All complaints about labels, masks and images; nothing is written then.
    """
    from selfseg.classification import files
    from selfseg.classification.cautions import training_warnings
    from selfseg.classification.labels import patients_of, read_labels
    from selfseg.classification.region_files import region_of_interest
    from selfseg.classification.train import Source, train_classifier
    from selfseg.reporting.classification_plot import save_calibration, save_roc

    if request.output.exists() and not request.output.is_dir():
        raise SelfSegError(f"-o {request.output}: is a file", remedy="Give a folder.")
    labels = read_labels(
        request.labels,
        column=request.label_column,
        positive=request.positive,
        patients=patients_of(request.images),
    )
    region = region_of_interest(request.masks, request.region, labels.unit, images=request.images)
    workers = default_workers(request.workers)
    with _chosen_network(request) as network:
        trained = train_classifier(
            Source(
                images=request.images,
                masks=request.masks,
                labels=labels,
                region=region,
                features=request.features,
                network=network,
            ),
            planner=request.planner,
            seed=request.seed,
            workers=workers,
        )
    folder = ClassifierFolder(request.output)
    folder.model.unlink(missing_ok=True)  # a former one is not that of the files that come now
    held_out, scores = trained.out_of_fold.probabilities, trained.model.scores
    files.write_out_of_fold(trained, folder.out_of_fold)
    files.write_features(trained, folder.chosen)
    files.write_table(trained, folder.features)
    save_roc(held_out, trained.table.positives, scores, folder.roc)
    save_calibration(held_out, trained.table.positives, scores, folder.calibration)
    serial.save(scores, folder.scores)
    files.save_model(trained.model, folder.model)
    for text in training_warnings(trained):
        log.warning("%s", text)
    return trained


def predict_classes(
    images: Path,
    masks: Sequence[Path],
    model: Path,
    output: Path,
    *,
    network: NetworkRequest | None,
    workers: int | None,
) -> tuple[Prediction, ...]:
    """Write the probability of every region in some masks as CSV; return them.

    Raises:
        DatasetError: Masks or images that do not fit; all complaints.
        RecordError: The model cannot be read.
    """
    from selfseg.classification.apply import classify_cases
    from selfseg.classification.cautions import model_warnings
    from selfseg.classification.files import load_model, write_predictions

    if output.is_dir():
        raise SelfSegError(f"-o {output}: is a folder", remedy="Give the name of a CSV file.")
    classifier = load_model(model)
    with _known_network(classifier, network) as known:
        found = classify_cases(
            classifier, images, masks, network=known, workers=default_workers(workers)
        )
    write_predictions(found, output)
    for text in model_warnings(classifier):
        log.warning("%s", text)
    return found


@contextmanager
def _chosen_network(request: ClassifyRequest) -> Iterator[Model | None]:
    """Load the network of a training; None if its features need none."""
    if request.features == "radiomics":
        _refuse_unused(request.network, "Leave it out, or ask for --features deep or both.")
        yield None
        return
    if request.network is None:
        raise SelfSegError(
            f"--features {request.features}: no network to take them from",
            remedy="Give a trained segmentation model with --segmentation.",
        )
    from selfseg.bundles import opened_model
    from selfseg.classification.deep import load_network

    wanted = request.network
    with opened_model(wanted.model) as folder:
        yield load_network(
            folder, configuration=wanted.configuration, fold=wanted.fold, device=wanted.device
        )


@contextmanager
def _known_network(
    model: ClassifierModel, request: NetworkRequest | None
) -> Iterator[Model | None]:
    """Load the network that a classifier needs; None if it needs none."""
    if model.network is None:
        _refuse_unused(request, "Leave it out: this classifier was trained without one.")
        yield None
        return
    if request is None:
        raise SelfSegError(
            f"the classifier needs deep features of {model.network.configuration} fold "
            f"{model.network.fold}",
            remedy="Give the segmentation model of its training with --segmentation.",
        )
    from selfseg.bundles import opened_model
    from selfseg.classification.deep import load_known_network

    with opened_model(request.model) as folder:
        yield load_known_network(folder, model.network, device=request.device)


def _refuse_unused(request: NetworkRequest | None, remedy: str) -> None:
    if request is not None:
        raise SelfSegError(
            f"--segmentation {request.model}: radiomics need no network", remedy=remedy
        )


def evaluate_classes(
    predictions: Path,
    labels: Path,
    *,
    label_column: str,
    positive: str | None,
    output: Path | None,
    seed: int,
) -> ClassificationScores:
    """Compare probabilities with labels; write the scores as `output` if wanted."""
    from selfseg.classification.apply import judge
    from selfseg.classification.files import read_predictions
    from selfseg.classification.labels import read_labels

    found = read_predictions(predictions)
    wanted = positive or found[0].positive
    scores = judge(found, read_labels(labels, column=label_column, positive=wanted), seed=seed)
    if output is not None:
        serial.save(scores, output)
    return scores
