"""Tuning of the dense CRF: the grid, the objective, and that no fold judges itself."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from selfseg.postprocessing import crf_tuning
from selfseg.postprocessing.crf_tuning import (
    Volumes,
    draw_options,
    label_scores,
    tune,
    tune_folds,
)
from selfseg.records.crf import CrfGrid, DenseCrf
from selfseg.records.dataset import Label, Region, Targets

GRID = CrfGrid(
    w_appearance=(0.0, 3.0),
    theta_space_mm=(3.0,),
    theta_intensity=(0.3, 30.0),
    w_smooth=(0.0,),
    theta_smooth_mm=(1.0,),
    iterations=(2, 3),
    draws=6,
)
ONE = Targets(labels=(Label(name="disc", value=1),))
TWO = Targets(labels=(Label(name="core", value=1), Label(name="rim", value=2)))


@dataclass(frozen=True)
class Disc:
    """A disc with salt in its probabilities; `inverted`: the reference is what lies around it."""

    id: str
    fold: str
    seed: int
    noise: float = 0.08
    inverted: bool = False

    def read(self) -> Volumes:
        rng = np.random.default_rng(self.seed)
        y, x = np.mgrid[:20, :20] - 9.5
        mask = y**2 + x**2 < 40 + 4 * self.seed
        label = torch.from_numpy(np.where(mask ^ (rng.random(mask.shape) < self.noise), 0.8, 0.2))
        image = torch.from_numpy(mask + 0.05 * rng.standard_normal(mask.shape))
        reference = (mask ^ self.inverted).astype(np.uint8)
        return Volumes(label[None], image[None], reference, (1.0, 1.0), ONE)


def test_grid_of_the_plan_is_drawn_once_each_and_always_alike() -> None:
    grid = CrfGrid(theta_intensity=(0.25, 0.5, 1.0))
    options = draw_options(grid)
    assert len(options) == len(set(options)) == 40
    assert options == draw_options(grid)
    assert options != draw_options(grid.model_copy(update={"seed": 1}))
    assert {o.theta_space_mm for o in options} == set(grid.theta_space_mm)
    assert {o.iterations for o in options} == {3, 5, 10}
    small = GRID.model_copy(update={"draws": 100})
    assert len(set(draw_options(small))) == 8


def test_tuning_finds_options_that_follow_the_image() -> None:
    cases = [Disc(str(i), "a", i) for i in range(5)]
    options, score = tune(cases, GRID)
    assert options.w_appearance == 3
    assert options.theta_intensity == 0.3
    plain = np.mean([label_scores(c.read().foreground, c.read(), 2.0)[0] for c in cases])
    assert plain < 0.9 < 0.99 < score <= 1


@pytest.mark.parametrize(
    ("changes", "read"),
    [
        # 6 options on 3 cases, 2 on all 7.
        ({}, {6: 3, 2: 4}),
        ({"kept_share": 0.5}, {6: 3, 3: 4}),
        ({"kept_share": 0.5, "first_cases": 2}, {6: 2, 3: 4, 2: 1}),
        ({"kept_share": 0.5, "first_cases": 2, "more_cases": 4}, {6: 2, 3: 5}),
        ({"first_cases": 1, "more_cases": 2, "kept_share": 0.6}, {6: 1, 4: 1, 3: 2, 2: 3}),
    ],
)
def test_the_grid_says_how_many_options_are_tried_on_how_many_cases(
    changes: dict[str, float], read: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: dict[str, int] = {}

    def counted(foreground: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        key = str(foreground.sum().item())
        tried[key] = tried.get(key, 0) + 1
        return foreground

    monkeypatch.setattr(crf_tuning, "refine_foreground", counted)
    tune([Disc(str(i), "a", i) for i in range(7)], GRID.model_copy(update=changes))
    assert Counter(tried.values()) == read


def test_a_fold_has_no_part_in_the_options_that_it_judges() -> None:
    cases = [Disc(f"{fold}{i}", fold, i) for fold in "abc" for i in range(2)]
    tuning = tune_folds(cases, GRID)
    choices = tuning.folds
    assert tuning.options == tune(cases, GRID)[0]
    assert [choice.fold for choice in choices] == ["a", "b", "c"]
    assert all(choice.after > choice.before for choice in choices)
    changed = [Disc(c.id, c.fold, c.seed, inverted=True) if c.fold == "b" else c for c in cases]
    again = tune_folds(changed, GRID).folds
    assert again[1].options == choices[1].options
    assert again[1].after < again[1].before, "what was tuned elsewhere is kept where it hurts"


def test_tuning_in_folds_needs_folds_and_cases() -> None:
    with pytest.raises(ValueError, match="two folds"):
        tune_folds([Disc("0", "a", 0)], GRID)
    with pytest.raises(ValueError, match="needs cases"):
        tune([], GRID)


def test_objective_is_the_mean_of_dice_and_surface_dice() -> None:
    reference = np.zeros((1, 12, 12), np.uint8)
    reference[0, 2:8, 2:8] = 1
    prediction = np.zeros_like(reference)
    prediction[0, 2:8, 3:9] = 1  # 1 voxel aside
    one_hot = torch.stack([torch.from_numpy(prediction == label).double() for label in (1, 2)])
    near = label_scores(one_hot, Volumes(one_hot, one_hot[:1], reference, (1.0, 1.0, 1.0), TWO), 2)
    assert near[0] == pytest.approx((5 / 6 + 1) / 2)
    assert math.isnan(near[1]), "a label that nobody has is not scored"
    wide = Volumes(one_hot, one_hot[:1], reference, (1.0, 5.0, 5.0), TWO)
    far = label_scores(one_hot, wide, 2)
    assert 5 / 12 < far[0] < near[0]
    assert label_scores(one_hot, wide, 5)[0] == near[0]
    flat = Volumes(one_hot[:, 0], one_hot[:1, 0], reference[0], (5.0, 5.0), TWO)
    assert label_scores(one_hot[:, 0], flat, 2)[0] == far[0]


def test_regions_are_scored_where_they_are_more_probable_than_not() -> None:
    whole, core = (
        Region(name="whole", values=(1, 2), value=1),
        Region(name="rim", values=(2,), value=2),
    )
    regions = TWO.model_copy(update={"regions": (whole, core)})
    reference = np.zeros((8, 8), np.uint8)
    reference[2:6, 2:6] = 1
    reference[2:6, 2:4] = 2
    values = torch.zeros(2, 8, 8)
    values[0][torch.from_numpy(reference > 0)] = 0.6
    values[1][torch.from_numpy(reference == 1)] = 0.6  # the wrong half
    scores = label_scores(values, Volumes(values, values[:1], reference, (5.0, 5.0), regions), 2)
    assert scores[0] == 1
    assert scores[1] < 0.5


def test_options_that_help_nowhere_are_none() -> None:
    cases = [Disc(f"{fold}{i}", fold, i, noise=0) for fold in "ab" for i in range(3)]
    tuning = tune_folds(cases, GRID)
    assert tuning.options is None
    assert [choice.options for choice in tuning.folds] == [None, None]
    assert all(choice.before == choice.after for choice in tuning.folds)


def test_unannotated_voxels_have_no_part() -> None:
    case = Disc("0", "a", 0, noise=0)
    volumes = case.read()
    reference = volumes.reference.copy()
    reference[:4] = 1
    known = np.ones(reference.shape, np.bool_)
    known[:6] = False
    volumes = Volumes(volumes.foreground, volumes.image, reference, (1.0, 1.0), ONE, known)
    assert label_scores(volumes.foreground, volumes, 2.0)[0] == 1


def test_the_first_of_equals_is_taken() -> None:
    clean = [Disc(str(i), "a", i, noise=0) for i in range(4)]
    grid = GRID.model_copy(update={"w_appearance": (0.0,)})
    options, score = tune(clean, grid)
    assert isinstance(options, DenseCrf)
    assert options == draw_options(grid)[0]
    assert score == 1
