"""Features of a segmentation network for every region, and both kinds of features together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from selfseg.classification.region_files import RegionFiles
from selfseg.classification.regions import RegionFeatures, region_masks
from selfseg.classification.table import DEEP
from selfseg.errors import ModelError
from selfseg.inference.bottleneck import check_pooling, pooled_bottleneck
from selfseg.inference.model import Model, load_model
from selfseg.inference.trained import model_digest
from selfseg.io.images import read_label_map
from selfseg.networks.device import select_device
from selfseg.progress import ProgressBar
from selfseg.records.classification import DeepSource
from selfseg.records.dataset import Case, File
from selfseg.workspace.dataset import DatasetFolder


def load_network(
    folder: Path, *, configuration: str | None, fold: str | None, device: str
) -> Model:
    """Load the network that deep features come from: one fold of one configuration.

    Raises:
        ModelError: None, several, or one without a bottleneck.
    """
    model = load_model(
        folder,
        configuration=configuration,
        folds=None if fold is None else (fold,),
        device=select_device(device),
    )
    check_pooling(model)
    return model


def load_known_network(folder: Path, source: DeepSource, *, device: str) -> Model:
    """Load the network that a classifier was trained with.

    Raises:
        ModelError: It is not there, or has other weights.
    """
    model = load_network(
        folder, configuration=source.configuration, fold=source.fold, device=device
    )
    if source_of(model) != source:
        raise ModelError(
            f"{model.description}: not the weights that the classifier was trained with",
            remedy="Give the segmentation model of its training, or train the classifier again.",
        )
    return model


def source_of(model: Model) -> DeepSource:
    """Return which network a model is."""
    (fold,) = model.folds
    digest = model_digest(DatasetFolder(model.folder), model.configuration, fold)
    return DeepSource(configuration=model.configuration.name, fold=fold, weights=digest)


def deep_features(files: Sequence[RegionFiles], model: Model) -> list[RegionFeatures]:
    """Return the pooled bottleneck of every region; names are `deep_0`, `deep_1` and on.

    Args:
        files: Cases whose masks and images are known to fit each other and the network.
        model: The network.
    """
    rows = []
    with ProgressBar("deep features", len(files)) as bar:
        for case in files:
            labels = read_label_map(case.mask).array[0]
            images = tuple(File(path=str(path.resolve())) for path in case.images)
            lesions = [lesion for lesion, _ in region_masks(case, labels)]
            masks = (mask for _, mask in region_masks(case, labels))
            found = pooled_bottleneck(model, Case(id=case.id, images=images), masks)
            for lesion, values in zip(lesions, found, strict=True):
                named = {f"{DEEP}{index}": float(value) for index, value in enumerate(values)}
                rows.append(RegionFeatures(case.id, lesion, named))
            bar.advance(note=case.id)
    return rows


def joined(
    radiomics: Sequence[RegionFeatures], deep: Sequence[RegionFeatures]
) -> list[RegionFeatures]:
    """Return regions with both kinds; under other contours deep features are taken to be the same.

    They are pooled over cells of many voxels, which a shifted contour hardly changes.
    """
    known = {(item.case, item.lesion): item.values for item in deep}
    return [
        RegionFeatures(
            item.case,
            item.lesion,
            item.values | known[item.case, item.lesion],
            tuple(reading | known[item.case, item.lesion] for reading in item.readings),
        )
        for item in radiomics
    ]
