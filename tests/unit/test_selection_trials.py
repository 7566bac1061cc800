"""Post-processing is accepted for what it does on folds that it was not tuned on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from selectiondata import Indices, Simulated, one_hot, reference, write_members

from selfseg.planning import find_selector
from selfseg.records.postprocessing import FillHoles, LargestComponent, MinimumVolume
from selfseg.records.selection import StepTrial
from selfseg.selection.candidates import compare
from selfseg.selection.gate import Setting
from selfseg.selection.scoring import Measure, Reference, score_masks, score_names
from selfseg.selection.statistics import difference, draw_weights, estimate, mean_score
from selfseg.selection.trials import Cleaning, find_steps

Probabilities = npt.NDArray[np.float64]


def clean(
    folder: Path, simulate: Simulated, cases: int = 12, tubular: tuple[str, ...] = ()
) -> Cleaning:
    known, selector = write_members(folder, {"2d": simulate}, cases=cases), find_selector()
    comparison = compare(known, selector.selection_rules())
    return find_steps(
        Setting(comparison.cases, ("2d",), known.plan.targets, Measure(), selector, 1, tubular)
    )


def trial(cleaning: Cleaning, subject: str, kind: str) -> StepTrial:
    (found,) = (t for t in cleaning.trials if (t.subject, t.kind) == (subject, kind))
    return found


def test_islands_everywhere_are_removed(tmp_path: Path) -> None:
    def islands(label: Indices, index: int) -> Probabilities:
        label = label.copy()
        label[0, 0:2, 0:2] = 1
        return one_hot(label)

    cleaning = clean(tmp_path, islands)
    found = trial(cleaning, "core", "components")
    assert found.accepted
    assert isinstance(found.step, LargestComponent | MinimumVolume)
    assert found.gain.lower > 0
    assert mean_score(cleaning.after) == 1 > mean_score(cleaning.before)
    # Two separate labels: one component of all foreground would delete the other label.
    whole = trial(cleaning, "foreground", "largest_component")
    assert not whole.accepted
    assert whole.worst_change <= 0


def test_components_of_tubes_stay_whatever_it_would_gain(tmp_path: Path) -> None:
    def islands(label: Indices, index: int) -> Probabilities:
        label = label.copy()
        label[0, 0:2, 0:2] = 1
        return one_hot(label)

    cleaning = clean(tmp_path, islands, tubular=("core",))
    assert not {("core", "components"), ("foreground", "largest_component")} & {
        (t.subject, t.kind) for t in cleaning.trials
    }
    assert mean_score(cleaning.after) == mean_score(cleaning.before) < 1


def test_what_helps_only_where_it_was_tuned_is_rejected(tmp_path: Path) -> None:
    def misleading(label: Indices, index: int) -> Probabilities:
        """In fold 0 islands are wrong, many and large; elsewhere they are right, and small."""
        label = label.copy()
        if index % 4 == 0:
            label[0, :3, :3] = 1
        else:
            label[2:6, 3 + index % 4 : 9 + index % 4, 5] = 0  # cut the block in two
        return one_hot(label)

    cleaning = clean(tmp_path, misleading)
    assert not trial(cleaning, "core", "components").accepted
    assert not any(isinstance(s, LargestComponent) for s in cleaning.steps)


def test_a_gain_in_one_fold_only_is_never_judged_where_it_was_tuned(tmp_path: Path) -> None:
    def one_fold(label: Indices, index: int) -> Probabilities:
        """Only fold 2 has islands: the other folds cannot know that removing them helps."""
        label = label.copy()
        if index % 4 == 2:
            label[0, 0:2, 0:2] = 1
        return one_hot(label)

    found = trial(clean(tmp_path, one_fold), "core", "components")
    assert found.step is not None, "tuned on all cases it helps"
    assert found.gain.value == 0
    assert not found.accepted


def test_holes_are_filled_where_they_are_wrong(tmp_path: Path) -> None:
    def holes(label: Indices, index: int) -> Probabilities:
        label = label.copy()
        label[3:5, 5:7, 14 - index % 4 : 15 - index % 4] = 0
        return one_hot(label)

    cleaning = clean(tmp_path, holes)
    assert FillHoles(name="rim") in cleaning.steps
    assert not trial(cleaning, "core", "fill_holes").accepted
    assert mean_score(cleaning.after[:, [1]]) == 1


def test_perfect_predictions_are_left_alone(tmp_path: Path) -> None:
    cleaning = clean(tmp_path, lambda label, _: one_hot(label))
    assert cleaning.steps == ()
    assert not any(t.accepted for t in cleaning.trials)


def test_means_are_over_cases_then_labels() -> None:
    nan = np.nan
    scores = np.array([[1.0, 0.5], [0.0, nan], [nan, nan]])
    assert mean_score(scores) == 0.5 * (0.5 + 0.5)
    assert np.isnan(mean_score(np.full((3, 2), nan)))


def test_bootstrap_interval_of_a_mean_is_that_of_the_normal_law() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(0.8, 0.1, (400, 1))
    weights = draw_weights([str(i) for i in range(400)], 4000, 1)
    found = estimate(scores, weights, 0.95)
    half = 1.96 * scores.std() / 20
    assert found.lower == pytest.approx(found.value - half, abs=0.1 * half)
    assert found.upper == pytest.approx(found.value + half, abs=0.1 * half)
    # Paired: a constant difference has no spread, however much the cases differ.
    paired = difference(scores + 0.01, scores, weights, 0.95)
    assert paired.upper - paired.lower < 1e-9


def test_groups_are_drawn_whole() -> None:
    weights = draw_weights(["a", "a", "b", "c"], 50, 0)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 1])
    np.testing.assert_array_equal(weights[:, [0, 2, 3]].sum(1), np.full(50, 3))


def test_unannotated_voxels_do_not_count() -> None:
    from tinymodel import LABELS

    from selfseg.records.dataset import Targets

    targets = Targets(labels=LABELS, ignore=9)
    truth = reference(0).astype(np.int16)
    prediction = reference(0)
    prediction[:, :2] = 1  # wrong, but there is no annotation
    truth[:, :2] = 3
    scores = score_names(prediction, Reference(truth, (1.0, 1.0, 1.0)), targets, Measure())
    assert scores == (1.0, 1.0)


def test_dice_of_masks() -> None:
    a, b = np.zeros((4, 4, 4), np.bool_), np.zeros((4, 4, 4), np.bool_)
    assert score_masks(a, b, (1, 1, 1), Measure()) is None
    a[0] = b[0, :2] = True
    assert score_masks(a, b, (1, 1, 1), Measure()) == pytest.approx(2 * 8 / 24)
