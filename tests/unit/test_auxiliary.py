"""What a second data set must have in common with the first one, and what is said of it."""

from __future__ import annotations

import pytest
from plannerfacts import make_dataset, make_fingerprint
from selfseg.planners.default import DefaultPlanner

from selfseg.auxiliary import borrow
from selfseg.errors import PlanError
from selfseg.records.dataset import Dataset, File, Label
from selfseg.records.plan import Budget, Decision, Plan

BUDGET = Budget(memory_gib=8.0, device="cpu")
SHAPE = ((1.0, 1.0, 1.0), (36, 50, 35))


def with_digests(dataset: Dataset, name: str, first: int) -> Dataset:
    """Return a data set of another name and root whose images have digests from a number on."""
    cases = tuple(
        case.model_copy(update={"images": (File(path="x", digest=f"{first + n}"),)})
        for n, case in enumerate(dataset.cases)
    )
    return dataset.model_copy(update={"name": name, "root": f"/{name}", "cases": cases})


def borrowed(own: Dataset, other: Dataset) -> Plan:
    fingerprint = make_fingerprint([SHAPE] * len(own.cases), channels=len(own.channels))
    return borrow(DefaultPlanner().plan(own, fingerprint, BUDGET), own, other)


def pair(
    here: tuple[str, ...] = ("MRI",), there: tuple[str, ...] = ("MRI",), *, first: int = 100
) -> tuple[Dataset, Dataset]:
    own = with_digests(make_dataset(10, channels=here), "own", 0)
    return own, with_digests(make_dataset(6, channels=there), "other", first)


def decision(plan: Plan, subject: str) -> Decision:
    (found,) = (item for item in plan.decisions if item.subject == subject)
    return found


def test_images_of_the_data_set_itself_are_refused() -> None:
    """Cases 8 and 9 would be trained on in the folds that hold them out."""
    with pytest.raises(PlanError, match="it holds images of own") as caught:
        borrowed(*pair(first=8))
    assert "(case_000, case_001)" in caught.value.message
    assert borrowed(*pair(first=10)).auxiliary is not None


def test_channels_in_another_order_are_refused() -> None:
    with pytest.raises(PlanError, match=r"another order \(T2 as T1, T1 as T2\)"):
        borrowed(*pair(("T1", "T2"), ("T2", "T1")))


def test_channels_of_other_names_are_taken_in_order_and_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plan = borrowed(*pair(("T1", "T2"), ("T1", "FLAIR")))
    assert decision(plan, "auxiliary.channels").value == "FLAIR as T2"
    assert "FLAIR as T2 is taken for granted" in caplog.text
    caplog.clear()
    assert decision(borrowed(*pair(("CT",), ("ct",))), "auxiliary.channels").value == "in order"
    assert not caplog.text


def test_names_of_labels_may_differ_in_capital_letters() -> None:
    own, other = pair()
    capital = tuple(Label(name=x.name.upper(), value=x.value) for x in other.labels)
    plan = borrowed(own, other.model_copy(update={"labels": capital}))
    found = decision(plan, "auxiliary.labels")
    assert found.value == "by name: " + ", ".join(label.name for label in own.labels)
    assert "background" not in found.because


def test_a_second_data_set_is_an_idea_for_every_configuration_of_one_stage() -> None:
    plan = borrowed(*pair())
    ideas = [idea for idea in plan.nominated if idea.borrows]
    assert [idea.configuration for idea in ideas] == [
        item.name for item in plan.configurations if plan.borrowed(item) is not None
    ]
    assert ideas[0] == plan.nominated[0]
    assert "10 cases, and 6 of other" in ideas[0].because
