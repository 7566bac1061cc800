"""What a trained model makes of other data without any training: overlap, intensities, spacing."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from selfseg.errors import SelfSegError
from selfseg.evaluation.overlap import Overlap
from selfseg.inference.export import label_map_path
from selfseg.inference.predictor import Model, load_model, predict_cases, read_case
from selfseg.io.images import read_label_map
from selfseg.io.store import open_array
from selfseg.networks.channel_order import ChannelOrder
from selfseg.records.channels import channel_order
from selfseg.records.dataset import Case, Dataset, Targets
from selfseg.records.serial import Triple
from selfseg.records.source import LabelOverlap, TransferFacts
from selfseg.training.transfer import SourceModel
from selfseg.training.validate import absolute_case
from selfseg.workspace.dataset import DatasetFolder

log = logging.getLogger(__name__)

PERCENTS = np.arange(0.5, 100, 1)  # of a case's voxels, to compare distributions
# Cases of the model's own data that its intensities are read from: they are alike.
OWN_CASES = 8

Quantiles = npt.NDArray[np.float64]


def probe(
    source: SourceModel,
    dataset: Dataset,
    cases: Sequence[str],
    *,
    spacing_ratios: Triple,
    device: torch.device,
    seen_cases: int = 0,
) -> TransferFacts:
    """Return what a model does with some training cases of a data set.

    Each of its channels is shown the one that stands for it (`channel_order`), as a training that
    starts from it would; where there is none, nothing is tried.

    Args:
        source: The model.
        dataset: The data.
        cases: Ids of the cases to look at, none that the model was trained on.
        seen_cases: How many it was.
        spacing_ratios: See `TransferFacts`.
        device: Where to predict.
    """
    facts = TransferFacts(
        cases=tuple(cases),
        training_cases=len(dataset.cases),
        seen_cases=seen_cases,
        channels=dataset.channels,
        spacing_ratios=spacing_ratios,
    )
    cascade = source.configuration.previous_stage is not None
    order = channel_order(source.channels, dataset.channels)
    if cascade or not source.labels or order is None:
        return facts
    found = load_model(
        source.files,
        configuration=source.configuration.name,
        folds=[source.model.fold],
        device=device,
    )
    model = _with_channels(found, dataset.channels, order)
    root = Path(dataset.root)
    wanted = [absolute_case(case, root) for case in dataset.cases if case.id in set(cases)]
    changes = {
        "overlaps": _zero_shot(model, dataset.targets, wanted),
        "intensity_distance": _intensity_distance(source, model, wanted, order),
    }
    return facts.model_copy(update=changes)


def _with_channels(model: Model, channels: tuple[str, ...], order: Sequence[int]) -> Model:
    """Return a model that takes channels of these names; `order` has the own one of each."""
    if list(order) == sorted(order):
        return model
    options = model.configuration.preprocessing
    normalization = tuple(options.normalization[index] for index in order)
    preprocessing = options.model_copy(update={"normalization": normalization})
    return replace(
        model,
        plan=model.plan.model_copy(update={"channels": channels}),
        configuration=model.configuration.model_copy(update={"preprocessing": preprocessing}),
        network=ChannelOrder(model.network, order).eval(),
    )


def wasserstein(first: Quantiles, second: Quantiles) -> float:
    """Return the 1-Wasserstein distance ∫|F⁻¹ − G⁻¹| of two distributions given by quantiles.

    Args:
        first: Quantiles at equally spaced shares, the middles of equal parts.
        second: Likewise.
    """
    return float(np.abs(first - second).mean())


def _zero_shot(model: Model, targets: Targets, cases: Sequence[Case]) -> tuple[LabelOverlap, ...]:
    """Return how labels of the same name overlap that a model predicts and the reference has."""
    ours, theirs = _values(targets), _values(model.plan.targets)
    shared = [name for name in ours if name in theirs]
    if not shared:
        return ()
    scores: dict[str, list[float]] = {name: [] for name in shared}
    with tempfile.TemporaryDirectory(prefix="selfseg_probe_") as folder:
        predict_cases(model, cases, Path(folder), tta=False)
        for case in cases:
            path = label_map_path(Path(folder), case)
            if case.reference is None or not path.is_file():
                continue
            made = read_label_map(path).array
            reference = read_label_map(Path(case.reference.path)).array
            if targets.ignore is not None:
                made, reference = (a[reference != targets.ignore] for a in (made, reference))
            for name in shared:
                dice = _overlap(made, reference, theirs[name], ours[name]).dice
                scores[name] += [] if dice is None else [dice]
    return tuple(
        LabelOverlap(name=name, dice=float(np.mean(found)))
        for name, found in scores.items()
        if found
    )


def _overlap(
    made: npt.NDArray[np.generic],
    reference: npt.NDArray[np.generic],
    theirs: Sequence[int],
    ours: Sequence[int],
) -> Overlap:
    predicted, wanted = np.isin(made, theirs), np.isin(reference, ours)
    return Overlap(int(predicted.sum()), int(wanted.sum()), int((predicted & wanted).sum()))


def _values(targets: Targets) -> dict[str, tuple[int, ...]]:
    """Return the values in a label map of each label or region, by name."""
    if targets.regions:
        return {region.name.casefold(): region.values for region in targets.regions}
    return {label.name.casefold(): (label.value,) for label in targets.labels}


def _intensity_distance(
    source: SourceModel, model: Model, cases: Sequence[Case], order: Sequence[int]
) -> float | None:
    """Return the mean distance over channels; None where the model's own arrays are gone."""
    known = _own_quantiles(source)
    found = []
    for case in cases:
        try:
            found.append(_quantiles(read_case(model, case).image))
        except SelfSegError as error:  # one broken image says nothing of the others
            log.warning("%s: %s", case.id, error)
    if known is None or not found:
        return None
    ours = np.mean(found, axis=0)
    theirs = known[list(order)]
    return float(np.mean([wasserstein(a, b) for a, b in zip(ours, theirs, strict=True)]))


def _own_quantiles(source: SourceModel) -> Quantiles | None:
    """Return the quantiles (channels, shares) of the images that a model was trained on."""
    arrays = DatasetFolder(source.files).preprocessed(source.configuration.preprocessing)
    paths = [arrays / f"{case}.b2nd" for case in source.train_cases[:OWN_CASES]]
    there = [path for path in paths if path.is_file()]
    if not there:
        return None
    images = [np.asarray(open_array(path)[:], np.float32) for path in there]
    return np.asarray(np.mean([_quantiles(image) for image in images], axis=0))


def _quantiles(image: npt.NDArray[np.float32]) -> Quantiles:
    values = np.percentile(image.reshape(len(image), -1), PERCENTS, axis=1)
    return np.asarray(values.T, np.float64)
