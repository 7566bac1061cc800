"""A dense CRF is selected where images help weak probabilities, and not where they are right."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from selectiondata import Indices, Simulated, one_hot, write_members
from tinymodel import LABELS

from selfseg.inference.trained import PlannedDataset
from selfseg.planning import find_selector
from selfseg.postprocessing.crf import CRF_VERSION
from selfseg.postprocessing.crf_tuning import FoldChoice, Tuning, Volumes, tune_folds
from selfseg.records.crf import CrfGrid, DenseCrf
from selfseg.records.dataset import Region, Targets
from selfseg.records.selection import Selection
from selfseg.selection import refinement
from selfseg.selection.candidates import compare
from selfseg.selection.fields import thinned
from selfseg.selection.gate import Setting
from selfseg.selection.scoring import Measure
from selfseg.selection.select import select
from selfseg.selection.trials import Cleaning, find_steps

Probabilities = npt.NDArray[np.float64]
GRID = CrfGrid(
    w_appearance=(0.0, 3.0),
    theta_space_mm=(5.0,),
    theta_intensity=(0.3,),
    w_smooth=(0.0, 1.0),
    theta_smooth_mm=(1.0,),
    iterations=(3,),
)
REGIONS = (
    Region(name="whole", values=(1, 4), value=1),
    Region(name="rim", values=(4,), value=4),
)


def weak(label: Indices, index: int) -> Probabilities:
    """Probabilities that are hardly certain, and wrong at random near and in the labels."""
    rng = np.random.default_rng(index)
    spoiled = np.where(rng.random(label.shape) < 0.2, rng.integers(0, 3, label.shape), label)
    return one_hot(spoiled.astype(np.uint8)) * 0.4 + 0.2


def painted(label: Indices, index: int) -> Probabilities:
    """An image with contrast at all borders, and noise."""
    noise = np.random.default_rng([index, 1]).normal(0, 0.1, label.shape)
    values: Probabilities = 1.0 + label + noise
    return values


def misleading(label: Indices, index: int) -> Probabilities:
    """An image whose borders stand elsewhere."""
    return painted(np.roll(label, 4, axis=2), index)


def known_of(folder: Path, simulate: Simulated, **more: object) -> PlannedDataset:
    more = {"cases": 16, "paint": painted, **more}
    return write_members(folder, {"2d": simulate}, **more)  # type: ignore[arg-type]


def run(known: PlannedDataset, grid: CrfGrid | None = GRID) -> Selection:
    return select(
        compare(known, find_selector().selection_rules()),
        known.plan.targets,
        measure=Measure("nsd", 1.0),
        selector=find_selector(),
        cache=known.folder.selection_scores,
        workers=1,
        crf=grid,
    )


def test_weak_probabilities_in_a_clear_image_are_refined(tmp_path: Path) -> None:
    known = known_of(tmp_path, weak)
    plain, selection = run(known, None), run(known)
    assert selection.crf is not None
    assert selection.crf.w_appearance == 3
    trial = selection.crf_trial
    assert trial is not None
    assert trial.accepted
    assert trial.options == selection.crf
    assert set(trial.folds) == {"0", "1", "2", "3"}
    assert trial.gain.lower > 0.01
    assert selection.score == plain.score
    assert selection.score_postprocessed.value > selection.score.value + 0.9 * trial.gain.value
    (decision,) = (d for d in selection.decisions if "dense_crf" in d.subject)
    assert decision.value == "accepted"
    assert f"{trial.gain.value:+.4f}" in decision.because
    # Components are tried on refined label maps: no salt is left there to remove.
    assert [t.subject for t in plain.trials if t.kind == "components"] == ["core", "rim"]
    assert not [t for t in selection.trials if t.kind == "components"]
    assert not selection.postprocessing
    assert not (known.folder.selection_scores / "crf" / "refined").exists()


def test_what_is_right_already_is_left_alone(tmp_path: Path) -> None:
    selection = run(known_of(tmp_path, lambda label, _: one_hot(label)))
    trial = selection.crf_trial
    assert selection.crf is None
    assert trial is not None
    assert not trial.accepted
    assert trial.options is None
    assert trial.gain.value == 0
    assert "better than no CRF" in trial.because
    assert selection.score_postprocessed == selection.score


def test_an_image_that_misleads_in_the_judged_folds_is_refused(tmp_path: Path) -> None:
    def mixed(label: Indices, index: int) -> Probabilities:
        return painted(label, index) if index % 4 < 2 else misleading(label, index)

    def right(label: Indices, index: int) -> Probabilities:
        return weak(label, index) if index % 4 < 2 else one_hot(label) * 0.4 + 0.2

    selection = run(known_of(tmp_path, right, paint=mixed))
    assert selection.crf is None
    trial = selection.crf_trial
    assert trial is not None
    assert not trial.accepted
    assert any(trial.folds.values()), "where it was tuned it helped"
    # The eight cases of the other two folds, where the image's borders stand elsewhere.
    assert "better in 0 of 16 cases, worse in 8" in trial.because
    assert trial.gain.upper < 0


def test_cases_are_judged_by_what_their_own_fold_had_no_part_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = DenseCrf(theta_intensity=0.3, iterations=3, theta_space_mm=5.0, theta_smooth_mm=1.0)

    def tuned(*_: object, **__: object) -> Tuning:
        """Good options on all cases and in all folds but one."""
        options = {"0": None, "1": good, "2": good, "3": good}
        return Tuning(good, tuple(FoldChoice(f, o, 0.5, 0.6) for f, o in options.items()))

    monkeypatch.setattr(refinement, "tune_folds", tuned)
    trial = run(known_of(tmp_path, weak)).crf_trial
    assert trial is not None
    assert "better in 12 of 16 cases" in trial.because


def test_options_of_all_cases_must_help_there_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = DenseCrf(theta_intensity=0.3, iterations=3, theta_space_mm=5.0, theta_smooth_mm=1.0)
    bad = good.model_copy(update={"w_appearance": 0.0, "w_smooth": 99.0, "theta_smooth_mm": 20.0})

    def tuned(*_: object, **__: object) -> Tuning:
        """Good options in all folds, and those that wash everything away on all cases."""
        return Tuning(bad, tuple(FoldChoice(fold, good, 0.5, 0.6) for fold in "0123"))

    monkeypatch.setattr(refinement, "tune_folds", tuned)
    known = known_of(tmp_path, weak)
    selection = run(known)
    trial = selection.crf_trial
    assert trial is not None
    assert not trial.accepted
    assert selection.crf is None
    assert trial.gain.lower > 0, "the gate of the folds would have let it pass"
    assert trial.because.startswith("tuned on all cases it scores 0.")
    assert f"without it they score {selection.score.value:.4f}; options of" in trial.because
    (decision,) = (d for d in selection.decisions if "dense_crf" in d.subject)
    assert (decision.value, decision.because) == ("rejected", trial.because)
    assert selection.score_postprocessed.value >= selection.score.value


def test_regions_are_refined_and_scored_as_they_are_decoded(tmp_path: Path) -> None:
    def overlapping(label: Indices, index: int) -> Probabilities:
        core, rim = weak(label, index)
        return np.stack([np.maximum(core, rim), rim])

    selection = run(known_of(tmp_path, overlapping, regions=REGIONS))
    assert selection.crf is not None
    assert selection.crf_trial is not None
    assert selection.crf_trial.gain.value > 0.01


def test_what_is_tuned_is_kept_until_something_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = known_of(tmp_path, weak, cases=4)
    first, calls = run(known), []

    def counted(*arguments: object, **options: object) -> object:
        calls.append(1)
        return tune_folds(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(refinement, "tune_folds", counted)
    assert run(known) == first
    assert not calls
    run(known, GRID.model_copy(update={"draws": 2}))
    assert len(calls) == 1
    (known.folder.selection_scores / "crf" / "tuning.json").write_text("{")
    run(known, GRID.model_copy(update={"draws": 2}))
    assert len(calls) == 2
    monkeypatch.setattr(refinement, "CRF_VERSION", CRF_VERSION + 1)
    run(known, GRID.model_copy(update={"draws": 2}))
    assert len(calls) == 3


def test_two_selections_of_a_data_set_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the one that ends first deletes the refined probabilities that the other reads."""
    known = known_of(tmp_path, weak)
    good = DenseCrf(theta_intensity=0.3, iterations=3, theta_space_mm=5.0, theta_smooth_mm=1.0)
    tuned = Tuning(good, tuple(FoldChoice(fold, good, 0.5, 0.6) for fold in "0123"))
    monkeypatch.setattr(refinement, "tune_folds", lambda *_, **__: tuned)
    told: list[str] = []

    def slow(setting: Setting) -> Cleaning:
        told.append("begins")
        time.sleep(0.5)
        cleaning = find_steps(setting)
        told.append("ends")
        return cleaning

    monkeypatch.setattr("selfseg.selection.select.find_steps", slow)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(run, [known, known])
    assert first == second
    assert first.crf == good
    assert told == ["begins", "ends"] * 2


def test_without_memory_it_is_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refinement, "free_memory_gib", lambda: 1e-6)
    selection = run(known_of(tmp_path, weak))
    assert selection.crf is None
    assert selection.crf_trial is None
    assert any("dense CRF was not tried: it needs" in note for note in selection.notes)


def test_cases_without_any_prediction_are_no_obstacle(tmp_path: Path) -> None:
    def nothing_at_first(label: Indices, index: int) -> Probabilities:
        return weak(label, index) * (index > 0)

    selection = run(known_of(tmp_path, nothing_at_first))
    assert selection.crf is not None
    assert selection.candidates[0].cases["case_0"] == 0


@pytest.mark.parametrize(
    ("spacing", "most", "steps"),
    [
        ((1.0, 1.0, 1.0), 1000, (2, 2, 2)),
        ((5.0, 1.0, 1.0), 1000, (1, 3, 3)),
        ((5.0, 1.0, 1.0), 10**6, (1, 1, 1)),
        ((9.0, 1.0), 100, (1, 4)),
    ],
)
def test_large_cases_are_thinned_out_along_fine_axes(
    spacing: Sequence[float], most: int, steps: Sequence[int]
) -> None:
    shape = (20,) * len(spacing)
    label = np.random.default_rng(0).integers(0, 3, shape).astype(np.uint8)
    values = torch.from_numpy(label[None].astype(np.float32))
    full = Volumes(values, values, label, tuple(spacing), Targets(labels=LABELS), label > 0)
    small = thinned(full, most)
    assert small.spacing_mm == tuple(s * step for s, step in zip(spacing, steps, strict=True))
    assert small.reference.size <= most
    kept = tuple(slice(None, None, step) for step in steps)
    np.testing.assert_array_equal(small.reference, label[kept])
    np.testing.assert_array_equal(small.foreground[0], label[kept])
    np.testing.assert_array_equal(small.known, label[kept] > 0)
