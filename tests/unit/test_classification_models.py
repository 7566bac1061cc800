"""Stored classifiers say what scikit-learn says, and files that are no classifier are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lesiontable import EVERY, LOGISTIC, make_table, small_plan

from selfseg.classification.candidates import (
    build_estimator,
    fit_calibration,
    fit_candidate,
    importances,
)
from selfseg.classification.evaluator import calibrated, needed_features, probabilities, scores
from selfseg.classification.nested import fit_classifier
from selfseg.errors import DatasetError, RecordError
from selfseg.records import serial
from selfseg.records.classification import (
    Candidate,
    FeatureSelection,
    FittedClassifier,
    ForestCandidate,
    LogisticCandidate,
    Projection,
    Tree,
)

FOREST = EVERY[2]


@pytest.mark.parametrize("candidate", EVERY, ids=lambda c: c.kind)
def test_scores_are_those_of_the_library(candidate: Candidate) -> None:
    table = make_table(50, 6, signal=1.0)
    fresh = np.random.default_rng(9).normal(0, 2, (200, 6))
    model = fit_candidate(candidate, table.values, table.positives, seed=5)
    estimator = build_estimator(candidate, 5).fit(table.values, table.positives)
    if isinstance(candidate, ForestCandidate):
        expected = estimator.predict_proba(fresh)[:, 1]
    else:
        expected = estimator.decision_function(fresh)
    assert scores(model, fresh) == pytest.approx(expected, abs=1e-9)
    if isinstance(candidate, LogisticCandidate):
        sure = estimator.predict_proba(fresh)[:, 1]
        assert 1 / (1 + np.exp(-scores(model, fresh))) == pytest.approx(sure, abs=1e-9)


def test_values_on_a_threshold_go_where_the_library_sends_them() -> None:
    # Thresholds lie between float32 values; rounding to float32 comes first.
    values = np.array([[0.1], [0.2], [0.3], [0.4]] * 4)
    positives = np.array([False, False, True, True] * 4)
    candidate = ForestCandidate(trees=7, least_in_leaf=1)
    model = fit_candidate(candidate, values, positives, seed=0)
    estimator = build_estimator(candidate, 0).fit(values, positives)
    near = np.array([[t + d] for t in (0.15, 0.25, 0.35) for d in (-1e-9, 0, 1e-8)])
    assert scores(model, near) == pytest.approx(estimator.predict_proba(near)[:, 1], abs=1e-12)


def test_importances_of_a_forest_are_those_of_the_library() -> None:
    table = make_table(60, 5, signal=1.5)
    candidate = ForestCandidate(trees=80, least_in_leaf=2)
    model = fit_candidate(candidate, table.values, table.positives, seed=1)
    estimator = build_estimator(candidate, 1).fit(table.values, table.positives)
    found = importances(model, table.values)
    assert found.sum() == pytest.approx(1)
    assert found.argmax() == estimator.feature_importances_.argmax() == 0
    # Theirs weigh the drawn rows of each tree, ours all rows.
    assert found == pytest.approx(estimator.feature_importances_, abs=0.06)


def test_a_classifier_survives_its_file(tmp_path: Path) -> None:
    table = make_table(40, 4, deep=3, signal=1.0)
    for candidate in (LOGISTIC, FOREST):
        fitted = fit_classifier(table, small_plan(candidate, trees=5), seed=0)
        serial.save(fitted, tmp_path / "m.json")
        again = serial.load(FittedClassifier, tmp_path / "m.json")
        assert again == fitted
        names = needed_features(again)
        columns = [table.names.index(name) for name in names]
        assert np.array_equal(
            probabilities(again, names, table.values[:, columns]),
            probabilities(fitted, table.names, table.values),
        )


def test_files_from_before_the_shift_of_contours_was_stored_load() -> None:
    now = small_plan().selection
    stored = json.loads(serial.text(now))
    assert (stored.pop("shift_voxels"), stored.pop("smoothness_voxels")) == (0.75, 2.0)
    assert serial.decode(FeatureSelection, json.dumps(stored), source="model.json") == now


def test_calibration_minimizes_the_logistic_loss_of_platts_targets() -> None:
    rng = np.random.default_rng(0)
    positives = rng.random(200) > 0.6
    scored = rng.normal(size=200) * 3 + 2 * positives
    made = fit_calibration(scored, positives, float(positives.mean()))
    count = positives.sum(), (~positives).sum()
    target = np.where(positives, (count[0] + 1) / (count[0] + 2), 1 / (count[1] + 2))

    def loss(slope: float, intercept: float) -> float:
        p = 1 / (1 + np.exp(-(slope * scored + intercept)))
        return float(-(target * np.log(p) + (1 - target) * np.log(1 - p)).sum())

    best = loss(made.slope, made.intercept)
    for step in (-1e-3, 1e-3):
        assert loss(made.slope + step, made.intercept) > best
        assert loss(made.slope, made.intercept + step) > best
    assert calibrated(scored, made).mean() == pytest.approx(target.mean(), abs=1e-4)


def test_scores_that_mislead_are_not_turned_round() -> None:
    positives = np.arange(20) % 2 == 0
    made = fit_calibration(np.where(positives, -1.0, 1.0), positives, 0.5)
    assert (made.slope, made.informed) == (0.0, False)
    assert calibrated(np.array([-1.0, 1.0]), made) == pytest.approx([0.5, 0.5])
    assert fit_calibration(np.zeros(20), positives, 0.5).slope == 0.0


def test_probabilities_follow_the_share_that_is_asked_for_and_not_that_of_the_rows() -> None:
    # A fold with twice as many negatives of the same scores.
    scored = np.random.default_rng(0).normal(size=400)
    positives = np.arange(400) < 200
    scored[positives] += 1.0
    more = np.concatenate([scored, scored[~positives]])
    labels = np.concatenate([positives, np.zeros(200, bool)])
    fresh = np.array([-1.0, 0.0, 2.0])
    one = calibrated(fresh, fit_calibration(scored, positives, 0.3))
    other = calibrated(fresh, fit_calibration(more, labels, 0.3))
    assert other == pytest.approx(one, abs=0.01)  # Platt's targets differ a little
    rarer = calibrated(fresh, fit_calibration(scored, positives, 0.1))
    odds = (rarer / (1 - rarer)) / (one / (1 - one))
    assert odds[1] == pytest.approx((0.1 / 0.9) / (0.3 / 0.7), rel=0.15)
    useless = [fit_calibration(-scored, positives, 0.3), fit_calibration(-more, labels, 0.3)]
    for made in useless:
        assert calibrated(fresh, made) == pytest.approx(np.full(3, 0.3))


def test_trees_that_lead_in_circles_are_refused() -> None:
    with pytest.raises(ValueError, match="not further down"):
        Tree(feature=(0,), threshold=(0.0,), left=(0,), right=(0,), share=(0.5,))
    with pytest.raises(ValueError, match="equally long"):
        Tree(feature=(), threshold=(), left=(), right=(), share=())


def test_components_that_do_not_fit_their_features_are_refused() -> None:
    Projection(features=("a", "b"), mean=(0.0, 0.0), scale=(1.0, 1.0), components=((1.0, 0.0),))
    for components, scale in (
        (((1.0,),), (1.0, 1.0)),
        ((), (1.0, 1.0)),
        (((1.0, 0.0),), (1.0, 0.0)),
    ):
        with pytest.raises(ValueError, match=r"fit the features|at least 1"):
            Projection(features=("a", "b"), mean=(0.0, 0.0), scale=scale, components=components)


@pytest.mark.parametrize("deep", [0, 2])
def test_regions_that_are_all_the_same_are_told(deep: int) -> None:
    table = make_table(20, 3, deep=deep)
    same = replace(table, values=np.ones_like(table.values), readings=np.ones_like(table.readings))
    with pytest.raises(DatasetError, match="every feature is the same"):
        fit_classifier(same, small_plan(trees=3), seed=0)


def test_a_file_with_a_feature_too_few_is_refused(tmp_path: Path) -> None:
    fitted = fit_classifier(make_table(40, 15, signal=1.0), small_plan(FOREST, trees=5), seed=0)
    content = fitted.model_dump()
    content["features"] = content["features"][:-1]
    path = tmp_path / "m.json"
    serial.write_text(
        FittedClassifier.model_construct(**content).model_dump_json(warnings=False), path
    )
    with pytest.raises(RecordError, match=r"fit the features|not there"):
        serial.load(FittedClassifier, path)
