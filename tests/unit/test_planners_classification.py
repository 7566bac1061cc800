"""Rules of classification: each choice by its fact, with its reason."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from selfseg.planners import classifier
from selfseg.planners.default import DefaultPlanner

from selfseg.planning import find_classifier
from selfseg.records.classification import (
    ClassificationFacts,
    ClassificationPlan,
    ForestCandidate,
)
from selfseg.records.features import FurtherFamily, ZScoreScale


def facts(**changes: object) -> ClassificationFacts:
    usual: dict[str, object] = {
        "channels": ("CT",), "regions": 100, "groups": 80, "rarer_groups": 30,
        "finest_spacing_mm": 0.7, "small_volume_mm3": 400.0,
    }  # fmt: skip
    return ClassificationFacts.model_validate(usual | changes)


def decide(**changes: object) -> ClassificationPlan:
    return find_classifier().decide_classification(facts(**changes))


def test_hounsfield_units_stay_and_other_units_are_scaled() -> None:
    plan = decide(channels=("CT", "PET", "T2", ""))
    ct, pet, mr, unknown = plan.radiomics.channels
    assert (ct.scale.kind, ct.bin_width) == ("own", 25.0)
    assert pet.scale.kind == "own"
    assert mr == unknown
    assert isinstance(mr.scale, ZScoreScale)


@pytest.mark.parametrize(
    ("volume", "finest", "spacing"),
    [(400.0, 0.7, 1.0), (25.0, 0.6, 0.794), (1.0, 0.3, 0.5), (25.0, 0.9, 0.9), (9000.0, 3.0, 3.0)],
)
def test_small_regions_get_a_finer_grid(volume: float, finest: float, spacing: float) -> None:
    plan = decide(small_volume_mm3=volume, finest_spacing_mm=finest)
    assert plan.radiomics.spacing_mm == pytest.approx(spacing, abs=1e-3)


def test_further_families_are_taken_where_mirp_is_installed() -> None:
    said = {}
    for version in (None, "2.7.0"):
        plan = decide(mirp=version)
        (said[version],) = (d for d in plan.decisions if d.subject == "radiomics.further")
        assert plan.radiomics.further == (() if version is None else get_args(FurtherFamily))
    without, taken = said[None], said["2.7.0"]
    assert without.value == "none"
    assert "is not installed (extra 'radiomics')" in without.because
    assert without.alternatives == (f"with mirp: {taken.value}",)
    assert taken.value == "runs, zones, distance_zones, tones, dependence"
    assert taken.because.startswith("mirp 2.7.0 is installed (extra 'radiomics')")


def test_every_fold_holds_out_a_patient_of_the_rarer_class() -> None:
    few = decide(groups=20, regions=22, rarer_groups=8)
    assert few.outer_folds == 8
    (said,) = (d for d in few.decisions if d.subject == "outer_folds")
    assert "20 patients, 8 of them with the rarer class" in said.because
    assert said.alternatives[0].startswith("one patient at a time: its class then moves")
    assert decide(groups=80).outer_folds == 10
    assert decide(groups=80, rarer_groups=6).outer_folds == 6


def test_reasons_follow_the_numbers_that_they_are_about(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {
        "MOST_CORRELATION": (0.83, "0.83 of the ranks"),
        "LEAST_AGREEMENT": (0.6, "from 0.6 on"),
        "STRONG": (0.125, "one 8 times as strong"),
        "JITTERS": (4, "7 readings"),
        "PUBLISHED_EACH": (6, "6 patients of the rarer class for each"),
    }
    for name, (value, _) in told.items():
        monkeypatch.setattr(classifier, name, value)
    reasons = "\n".join(decision.because for decision in decide().decisions)
    assert [text for _, text in told.values() if text not in reasons] == []


def test_every_number_of_a_plan_has_its_decision() -> None:
    plan = decide(groups=20, regions=22, rarer_groups=8)
    said = {decision.subject: decision.value for decision in plan.decisions}
    for part in ("selection", "uncertainty"):
        for name, value in getattr(plan, part):
            assert float(said.pop(f"{part}.{name}")) == value
    for name in ("outer_folds", "inner_folds"):
        assert int(said.pop(name)) == getattr(plan, name)
    strengths = "; ".join(said.pop(f"candidates.{kind}") for kind in ("logistic", "svm"))
    assert strengths == "c = 0.05 and 1; c = 0.05"
    forest = plan.candidates[-1]
    assert isinstance(forest, ForestCandidate)
    assert said.pop("candidates.forest").startswith(f"{forest.trees} trees")
    assert set(said) == {
        "radiomics.channels[0]", "radiomics.spacing_mm", "radiomics.further", "candidates",
    }  # fmt: skip
    assert [candidate.kind for candidate in plan.candidates] == [
        "logistic", "logistic", "svm", "forest",
    ]  # fmt: skip


@given(st.integers(1, 500), st.integers(1, 200), st.floats(0.1, 10), st.floats(0.01, 1e6))
def test_any_facts_give_a_plan_with_reasons(
    groups: int, rarer: int, finest: float, volume: float
) -> None:
    given_facts = facts(
        groups=groups, rarer_groups=rarer, finest_spacing_mm=finest, small_volume_mm3=volume
    )
    plan = DefaultPlanner().decide_classification(given_facts)
    assert plan.outer_folds >= 2
    assert plan.outer_folds <= max(2, rarer)
    assert all(decision.because for decision in plan.decisions)
