"""Nested validation: nothing is learned where there is nothing, and nothing leaks."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
from lesiontable import EVERY, LOGISTIC, make_table, small_plan

from selfseg.classification import nested
from selfseg.classification.choice import fit_projection, prepare_features, project, projected
from selfseg.classification.evaluator import probabilities
from selfseg.classification.nested import (
    OutOfFold,
    cross_validate,
    fit_classifier,
    grouped_folds,
)
from selfseg.classification.statistics import area_under_curve
from selfseg.classification.table import FeatureTable
from selfseg.errors import SelfSegError
from selfseg.planning import find_classifier
from selfseg.records.classification import Candidate, ClassificationFacts, ForestCandidate


def nested_area(table: FeatureTable, seed: int = 0, candidate: Candidate = LOGISTIC) -> float:
    plan = small_plan(candidate, trees=20)
    held_out = cross_validate(table, plan, seed=seed)
    return area_under_curve(held_out.probabilities, table.positives)


def shuffled(table: FeatureTable, seed: int) -> FeatureTable:
    return replace(table, positives=np.random.default_rng(seed).permutation(table.positives))


def test_permuted_labels_give_chance() -> None:
    table = make_table(60, 8, signal=3.0)
    assert nested_area(table) > 0.9
    areas = [nested_area(shuffled(table, seed), seed) for seed in range(8)]
    assert np.mean(areas) == pytest.approx(0.5, abs=0.1)


@functools.cache
def of_twenty(signal: float, seed: int) -> OutOfFold:
    """Validate as is decided for 20 patients, 9 of them positive; but forests are small."""
    table = make_table(20, 8, seed=seed)
    positives = np.random.default_rng(seed).permutation(np.arange(20) < 9)
    values, readings = table.values.copy(), table.readings.copy()
    values[:, 0] += signal * positives
    readings[:, :, 0] += signal * positives[:, None]
    facts = ClassificationFacts(
        channels=("CT",), regions=20, groups=20, rarer_groups=9,
        finest_spacing_mm=0.7, small_volume_mm3=400.0,
    )  # fmt: skip
    decided = find_classifier().decide_classification(facts)
    small = {"trees": 12}
    plan = decided.model_copy(
        update={
            "selection": decided.selection.model_copy(update=small),
            "candidates": tuple(
                item.model_copy(update=small) if isinstance(item, ForestCandidate) else item
                for item in decided.candidates
            ),
        }
    )
    table = replace(table, values=values, readings=readings, positives=positives)
    return cross_validate(table, plan, seed=seed)


def of_twenty_area(signal: float, seed: int) -> float:
    positives = np.random.default_rng(seed).permutation(np.arange(20) < 9)
    return area_under_curve(of_twenty(signal, seed).probabilities, positives)


def test_twenty_patients_give_chance_for_noise_and_more_for_a_feature_that_knows() -> None:
    noise = [of_twenty_area(0.0, seed) for seed in range(8)]
    assert np.mean(noise) == pytest.approx(0.5, abs=0.1)
    knowing = [of_twenty_area(1.5, seed) for seed in range(4)]
    assert np.mean(knowing) > np.mean(noise) + 0.1
    assert np.mean(knowing) > 0.6


def test_folds_that_know_nothing_say_the_same() -> None:
    # Were it the share of positives of their own training part, it would rank what they hold out.
    silent = 0
    for seed in range(3):
        found = of_twenty(0.0, seed)
        parts = [found.probabilities[found.folds == fold] for fold in range(found.num_folds)]
        useless = [part for part in parts if np.allclose(part, 9 / 20, rtol=0, atol=1e-12)]
        assert len(useless) == found.uninformed
        silent += found.uninformed
    assert silent > 3


def test_choosing_features_on_all_rows_would_show() -> None:
    # 40 regions, 300 features of noise: some separate these rows, none separates others.
    honest, leaking = [], []
    for seed in range(4):
        table = make_table(40, 300, seed=seed)
        honest.append(nested_area(table, seed))
        chosen = prepare_features(table, small_plan(trees=60).selection, seed).features
        columns = [table.names.index(name) for name in chosen]
        leaked = replace(
            table,
            names=chosen,
            values=table.values[:, columns],
            readings=table.readings[:, :, columns],
        )
        leaking.append(nested_area(leaked, seed))
    assert np.mean(honest) == pytest.approx(0.5, abs=0.15)
    assert np.mean(leaking) > np.mean(honest) + 0.15


def test_no_probability_depends_on_its_own_label(monkeypatch: pytest.MonkeyPatch) -> None:
    # Folds by patients' numbers: balanced ones would change with the labels.
    def numbered(table: FeatureTable, folds: int, seed: int) -> list[nested.Split]:
        fold = np.array([int(name.split()[1]) for name in table.groups]) % folds
        return [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(folds)]

    monkeypatch.setattr(nested, "grouped_folds", numbered)
    table = make_table(24, 6, signal=3.0)
    plan = small_plan(LOGISTIC, outer=3, inner=5, trees=5)
    before = cross_validate(table, plan, seed=0).probabilities
    for rows in ([0, 3], [4, 7]):  # of both classes, held out together; their share stays
        swapped = table.positives.copy()
        swapped[rows] = ~swapped[rows]
        assert swapped.sum() == table.positives.sum()
        after = cross_validate(replace(table, positives=swapped), plan, seed=0).probabilities
        assert np.array_equal(after[rows], before[rows])
        assert not np.array_equal(after, before)


@pytest.mark.parametrize(("positive", "negative"), [(9, 11), (4, 4), (5, 30)])
def test_no_fold_holds_out_one_class_alone(positive: int, negative: int) -> None:
    count = positive + negative
    table = replace(make_table(count, 3), positives=np.arange(count) < positive)
    for folds in (5, 10, count):
        splits = grouped_folds(table, folds, seed=0)
        assert len(splits) == min(folds, positive)
        for _, held in splits:
            assert 0 < table.positives[held].sum() < len(held)
        assert sorted(np.concatenate([held for _, held in splits])) == list(range(count))


def test_patients_of_both_classes_stay_whole_if_a_fold_then_holds_out_one_class() -> None:
    """Then shares get as even as whole patients allow; nothing is left out, nothing fails."""
    patients = ("++++", "-+", "--", "---+", "---", "---", "+++-", "+", "-+")
    positives = np.array([sign == "+" for regions in patients for sign in regions])
    groups = np.repeat([f"patient {n}" for n in range(9)], [len(regions) for regions in patients])
    table = replace(make_table(len(groups), 3), positives=positives, groups=groups)
    splits = grouped_folds(table, 5, seed=0)
    assert len(splits) == 5
    assert sorted(np.concatenate([held for _, held in splits])) == list(range(len(groups)))
    for train, held in splits:
        assert not set(groups[train]) & set(groups[held])
        assert 0 < positives[train].sum() < len(train)
    assert any(not positives[held].any() for _, held in splits)
    found = cross_validate(table, small_plan(outer=5, inner=2, trees=5), seed=0)
    assert np.isfinite(found.probabilities).all()


def test_patients_are_never_split() -> None:
    # Features that tell patients apart, and nothing about classes.
    table = make_table(60, 4, per_patient=3)
    of_patient = np.repeat(np.random.default_rng(0).normal(size=(20, 4)), 3, axis=0)
    positives = np.repeat(np.arange(20) % 2 == 0, 3)
    table = replace(table, values=of_patient, positives=positives)
    for train, held in grouped_folds(table, 5, seed=0):
        assert not set(table.groups[train]) & set(table.groups[held])
    memory = ForestCandidate(trees=15, least_in_leaf=1)
    areas = [nested_area(shuffled_patients(table, seed), seed, memory) for seed in range(4)]
    assert np.mean(areas) == pytest.approx(0.5, abs=0.2)
    # Were they split, the forest would know its patients again.
    alone = replace(table, groups=np.array([f"{row}" for row in range(60)]))
    areas = [nested_area(shuffled_patients(alone, seed), seed, memory) for seed in range(2)]
    assert np.mean(areas) > 0.8


def shuffled_patients(table: FeatureTable, seed: int) -> FeatureTable:
    """Return 20 patients of three regions each, in new classes."""
    patients = np.random.default_rng(seed).permutation(np.arange(20) % 2 == 0)
    return replace(table, positives=np.repeat(patients, 3))


def test_the_same_seed_gives_the_same_classifier() -> None:
    table = make_table(30, 6, signal=1.0)
    plan = small_plan(*EVERY, trees=5)
    first, again = (fit_classifier(table, plan, seed=3) for _ in range(2))
    assert first == again
    assert first != fit_classifier(table, plan, seed=4)


def test_workers_change_nothing() -> None:
    table = make_table(24, 5, signal=1.0)
    plan = small_plan(LOGISTIC, outer=3, trees=4)
    one, two = (cross_validate(table, plan, seed=0, workers=workers) for workers in (1, 2))
    assert np.array_equal(one.probabilities, two.probabilities)
    assert np.array_equal(one.called, two.called)


def test_what_is_constant_shaky_or_repeated_is_dropped() -> None:
    table = make_table(40, 6, signal=2.0)
    values, readings = table.values.copy(), table.readings.copy()
    values[:, 1] = 7.0
    values[:, 2] = 3 * values[:, 0] ** 3
    readings[:, :, 2] = 3 * readings[:, :, 0] ** 3
    readings[:, :, 3] = np.random.default_rng(1).normal(size=readings.shape[:2])
    table = replace(table, values=values, readings=readings)
    made = prepare_features(table, small_plan().selection, seed=0)
    assert len({"own_0", "own_2"} & set(made.features)) == 1
    assert not {"own_1", "own_3"} & set(made.features)
    assert len(made.features) <= table.num_groups / 5
    assert made.standardized.mean(axis=0) == pytest.approx(0, abs=1e-12)
    assert made.standardized.std(axis=0) == pytest.approx(1)


def test_few_patients_allow_few_features() -> None:
    made = prepare_features(make_table(20, 30, per_patient=2), small_plan().selection, seed=0)
    assert len(made.features) == 2


def test_components_of_deep_features_are_those_of_their_covariance() -> None:
    table = make_table(40, 2, deep=6, signal=1.0)
    projection = fit_projection(table, small_plan().selection)
    assert projection is not None
    found = projected(table.names, table.values, projection)
    standardized = table.values[:, 2:]
    standardized = (standardized - standardized.mean(axis=0)) / standardized.std(axis=0)
    largest = np.linalg.eigvalsh(np.cov(standardized.T, ddof=0))[::-1][:3]
    assert found.var(axis=0) == pytest.approx(largest)
    assert np.corrcoef(found.T) == pytest.approx(np.eye(3), abs=1e-9)
    names, values, readings = project(table, projection)
    assert names == ("own_0", "own_1", "deep_component_1", "deep_component_2", "deep_component_3")
    assert values.shape == (40, 5)
    assert readings.shape == (40, 2, 5)


def test_deep_features_help_where_they_know_more() -> None:
    table = make_table(40, 4, deep=8, signal=1.5)
    plan = small_plan(LOGISTIC, trees=8)
    fitted = fit_classifier(table, plan, seed=0)
    assert "deep_component_1" in fitted.features
    found = probabilities(fitted, table.names, table.values)
    assert area_under_curve(found, table.positives) > 0.9


def test_too_few_patients_are_named() -> None:
    table = make_table(8, 3)
    lonely = replace(table, positives=np.arange(8) == 0)
    with pytest.raises(SelfSegError, match="one class only"):
        list(grouped_folds(lonely, 8, seed=0))
