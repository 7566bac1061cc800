"""Features of every region of the kind that is wanted: radiomics, those of a network, or both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from selfseg.classification.region_files import RegionFiles
from selfseg.classification.regions import RegionFeatures, check_files, compute_features
from selfseg.records.classification import ClassificationPlan, FeatureKind, FeatureSelection

if TYPE_CHECKING:
    from selfseg.inference.model import Model


def measure_regions(
    files: Sequence[RegionFiles],
    plan: ClassificationPlan,
    kind: FeatureKind,
    network: Model | None,
    *,
    contours: FeatureSelection | None,
    seed: int,
    workers: int,
) -> list[RegionFeatures]:
    """Return the features of every region, of the kind that is wanted.

    Args:
        files: Cases.
        plan: How radiomics are computed.
        kind: Of the features.
        network: For deep features; None where none are wanted.
        contours: Which other contours radiomics are read under; None: no others.
        seed: Of the contours.
        workers: Parallel processes.

    Raises:
        DatasetError: Masks and images that do not fit each other or the features; all complaints.
    """
    options = plan.radiomics
    if network is None:
        return compute_features(files, options, contours=contours, seed=seed, workers=workers)
    from selfseg.classification.deep import deep_features, joined

    needed = len(network.plan.channels)
    if kind == "deep" or needed != len(options.channels):  # computing radiomics checks them too
        check_files(files, needed, workers=workers)
    if kind == "deep":
        return deep_features(files, network)
    own = compute_features(files, options, contours=contours, seed=seed, workers=workers)
    return joined(own, deep_features(files, network))
