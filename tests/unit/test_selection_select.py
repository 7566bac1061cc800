"""Selection on simulated members: what is truly better is chosen, ties go to the simpler."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from selectiondata import Indices, Simulated, one_hot, write_members

from selfseg.errors import ModelError
from selfseg.planning import find_selector
from selfseg.records import serial
from selfseg.records.model import TrainedFold
from selfseg.records.selection import Selection
from selfseg.selection import scoring
from selfseg.selection import select as stage
from selfseg.selection.candidates import compare
from selfseg.selection.scoring import Measure
from selfseg.selection.select import select

RULES = find_selector().selection_rules()
Probabilities = npt.NDArray[np.float64]


def wrong(share: float, seed: int) -> Simulated:
    """A member that is wrong in a share of the labels' voxels, in its own ones with its seed."""

    def simulate(label: Indices, index: int) -> Probabilities:
        noise = (np.random.default_rng([seed, index]).random(label.shape) < share) & (label > 0)
        return one_hot(np.where(noise, (label + 1) % 3, label).astype(np.uint8)) * 0.9

    return simulate


def perfect(label: Indices, index: int) -> Probabilities:
    return one_hot(label)


def run(
    folder: Path,
    members: Mapping[str, Simulated],
    *,
    measure: Measure | None = None,
    folds: Mapping[str, tuple[str, ...]] | None = None,
    seconds: Mapping[str, float] | None = None,
) -> Selection:
    known = write_members(folder, members, folds=folds, seconds=seconds)
    return select(
        compare(known, RULES),
        known.plan.targets,
        measure=measure or Measure(),
        selector=find_selector(),
        cache=known.folder.selection_scores,
        workers=1,
    )


def names(selection: Selection) -> list[str]:
    return [member.configuration for member in selection.members]


@pytest.mark.parametrize("metric", ["dice", "nsd"])
def test_the_better_member_is_chosen(tmp_path: Path, metric: str) -> None:
    measure = Measure("nsd" if metric == "nsd" else "dice", 1.0)
    members = {"2d": wrong(0.2, 1), "3d_fullres": wrong(0.02, 1)}
    selection = run(tmp_path, members, measure=measure)
    assert names(selection) == ["3d_fullres"]
    assert selection.metric == metric
    by_name = {candidate.name: candidate for candidate in selection.candidates}
    assert set(by_name) == {"2d", "3d_fullres", "2d + 3d_fullres"}
    assert by_name["2d"].difference.upper < 0
    assert selection.candidates[0].difference.value == 0


def test_an_ensemble_whose_members_err_apart_is_chosen(tmp_path: Path) -> None:
    members = {"2d": wrong(0.25, 1), "3d_fullres": wrong(0.25, 2), "3d_lowres": wrong(0.25, 3)}
    selection = run(tmp_path, members)
    assert names(selection) == ["2d", "3d_fullres", "3d_lowres"]
    assert len(selection.candidates) == 7
    assert selection.members[0].folds == ("0", "1", "2", "3")
    assert len(set(selection.members[0].weights)) == 4


def test_a_tie_goes_to_the_faster_of_the_simple(tmp_path: Path) -> None:
    def nearly(label: Indices, index: int) -> Probabilities:
        one = label.copy()
        one[2, 3 + index % 4, 3] = 0  # one voxel of some hundreds
        return one_hot(one)

    members: dict[str, Simulated] = {"2d": nearly, "3d_fullres": perfect}
    assert names(run(tmp_path / "a", members, seconds={"2d": 9, "3d_fullres": 1})) == ["3d_fullres"]
    # One voxel in every case is no chance: the difference is small, but its interval is below 0.
    assert names(run(tmp_path / "b", members, seconds={"2d": 1, "3d_fullres": 9})) == ["3d_fullres"]
    equal: dict[str, Simulated] = {"2d": perfect, "3d_fullres": perfect}
    assert names(run(tmp_path / "c", equal, seconds={"2d": 1, "3d_fullres": 9})) == ["2d"]
    assert names(run(tmp_path / "d", equal, seconds={"2d": 9, "3d_fullres": 1})) == ["3d_fullres"]


def test_a_member_with_fewer_folds_is_compared_on_common_cases(tmp_path: Path) -> None:
    members = {"2d": wrong(0.2, 1), "3d_fullres": wrong(0.01, 2)}
    selection = run(tmp_path, members, folds={"3d_fullres": ("1", "2", "all")})
    assert selection.folds == ("1", "2")
    assert all(
        set(candidate.cases) == {"case_1", "case_5", "case_2", "case_6"}
        for candidate in selection.candidates
    )
    assert selection.members[0].folds == ("1", "2")
    assert any("3d_fullres lacks fold 0, 3" in note for note in selection.notes)
    assert any("fold all has no held-out cases" in note for note in selection.notes)


def test_without_common_folds_one_is_left_out(tmp_path: Path) -> None:
    members = {"2d": perfect, "3d_fullres": wrong(0.1, 1)}
    selection = run(tmp_path, members, folds={"2d": ("0",), "3d_fullres": ("1", "2")})
    assert names(selection) == ["3d_fullres"]
    assert any("2d shares no fold" in note for note in selection.notes)


def test_different_held_out_cases_are_refused(tmp_path: Path) -> None:
    known = write_members(tmp_path, {"2d": perfect, "3d_fullres": perfect})
    path = known.folder.fold("2d", "0").description
    changed = serial.load(TrainedFold, path).model_copy(update={"validation_cases": ("case_0",)})
    serial.save(changed, path)
    with pytest.raises(ModelError, match="fold 0 of 3d_fullres holds out other cases"):
        compare(known, RULES)


def test_nothing_trained_is_said(tmp_path: Path) -> None:
    known = write_members(tmp_path, {"2d": perfect}, folds={"2d": ()})
    with pytest.raises(ModelError, match="no trained fold of a cross-validation") as caught:
        compare(known, RULES)
    assert "selfseg train" in caught.value.remedy


def test_scores_are_those_of_the_case_means(tmp_path: Path) -> None:
    selection = run(tmp_path, {"2d": wrong(0.1, 1)})
    (candidate,) = selection.candidates
    # Every case has both labels, so either order of means gives the same.
    assert candidate.score.value == pytest.approx(
        np.mean([v for v in candidate.cases.values() if v is not None])
    )
    assert candidate.score.value == pytest.approx(
        np.mean([v for v in candidate.labels.values() if v is not None])
    )
    assert candidate.score.lower < candidate.score.value < candidate.score.upper
    assert run(tmp_path, {"2d": wrong(0.1, 1)}) == selection


def test_an_interrupted_selection_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = {"2d": wrong(0.1, 1), "3d_fullres": wrong(0.1, 2)}
    whole = run(tmp_path / "a", members)
    known = write_members(tmp_path / "b", members)
    folder = known.folder
    original, calls = scoring.predicted, []

    def interrupted(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 10:  # in the fourth of eight cases
            raise KeyboardInterrupt
        return original(*arguments)  # type: ignore[arg-type]

    def go_on() -> Selection:
        return select(
            compare(known, RULES), known.plan.targets, measure=Measure(),
            selector=find_selector(), cache=folder.selection_scores, workers=1,
        )  # fmt: skip

    monkeypatch.setattr(stage, "predicted", interrupted)
    with pytest.raises(KeyboardInterrupt):
        go_on()
    assert len(list(folder.selection_scores.iterdir())) == 3
    calls.clear()
    calls.extend([1] * 100)
    assert go_on() == whole
    assert len(calls) == 100 + 3 * 5  # three candidates of the five cases that were left
