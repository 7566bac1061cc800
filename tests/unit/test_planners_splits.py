"""Folds: whole groups, about equally many cases a fold, rare labels spread evenly."""

from __future__ import annotations

from collections.abc import Collection

from hypothesis import given, settings
from hypothesis import strategies as st
from plannerfacts import make_dataset, make_fingerprint
from selfseg.planners.splits import decide_splits, label_presence

from selfseg.records.dataset import Case, Splits
from selfseg.records.fingerprint import LabelFacts


def split_groups(sizes: list[int], folds: int = 5) -> Splits:
    """Split groups of so many cases."""
    cases = [
        Case(id=f"case_{group:02}_{n:02}", images=(), group=f"patient {group}")
        for group, size in enumerate(sizes)
        for n in range(size)
    ]
    splits = decide_splits(tuple(cases), folds)
    assert isinstance(splits, Splits)
    return splits


def test_a_large_group_does_not_share_its_fold() -> None:
    splits = split_groups([30, 5, 5, 5, 5, 5, 5])
    assert sorted(len(fold.validation) for fold in splits.folds) == [5, 5, 10, 10, 30]


def test_pairs_fill_the_folds_evenly() -> None:
    assert [len(fold.validation) for fold in split_groups([2] * 10).folds] == [4] * 5


def test_groups_of_one_are_plain_cases() -> None:
    cases = tuple(Case(id=f"case_{n:02}", images=()) for n in range(10))
    alone = tuple(case.model_copy(update={"group": case.id}) for case in cases)
    assert decide_splits(cases) == decide_splits(alone)


@given(st.lists(st.integers(1, 9), min_size=2, max_size=25), st.integers(2, 6))
@settings(max_examples=80, deadline=None)
def test_folds_differ_by_one_group_at_most(sizes: list[int], folds: int) -> None:
    splits = split_groups(sizes, folds)
    held_out = [len(fold.validation) for fold in splits.folds]
    assert sum(held_out) == sum(sizes)
    assert min(held_out) >= 1
    assert max(held_out) - min(held_out) <= max(sizes)
    assert splits == split_groups(sizes, folds)


def cases_of(count: int, groups: dict[int, str] | None = None) -> tuple[Case, ...]:
    known = groups or {}
    return tuple(Case(id=f"case_{n:02}", images=(), group=known.get(n)) for n in range(count))


def held_with(splits: Splits, ids: Collection[str]) -> list[int]:
    """Return how many of some cases each fold holds out."""
    return [len(set(ids) & set(fold.validation)) for fold in splits.folds]


def test_common_labels_leave_the_folds_of_nnunet() -> None:
    cases = cases_of(40)
    ids = [case.id for case in cases]
    presence = {"organ": ids, "lesion": ids[:30], "absent": []}
    assert decide_splits(cases, presence=presence) == decide_splits(cases)


def test_a_rare_label_that_chance_spreads_evenly_changes_nothing() -> None:
    cases = cases_of(40)
    one_each = [fold.validation[3] for fold in decide_splits(cases).folds]
    assert decide_splits(cases, presence={"lesion": one_each}) == decide_splits(cases)


def test_a_rare_label_is_dealt_out() -> None:
    cases = cases_of(40)
    crowded = decide_splits(cases).folds[0].validation[:5]
    assert held_with(decide_splits(cases), crowded) == [5, 0, 0, 0, 0]
    splits = decide_splits(cases, presence={"lesion": crowded})
    assert held_with(splits, crowded) == [1] * 5
    assert [len(fold.validation) for fold in splits.folds] == [8] * 5
    assert splits.note == "stratified, so that every fold has its share of lesion"


def test_the_scarcer_label_is_dealt_out_first() -> None:
    cases = cases_of(30)
    ids = [case.id for case in cases]
    presence = {"cyst": ids[:12], "tumor": ids[9:14]}
    splits = decide_splits(cases, presence=presence)
    assert held_with(splits, presence["tumor"]) == [1] * 5
    counts = held_with(splits, presence["cyst"])
    assert max(counts) - min(counts) <= 1


def test_a_label_with_fewer_patients_than_folds_is_noted() -> None:
    cases = cases_of(20)
    pair = decide_splits(cases).folds[2].validation[:2]
    splits = decide_splits(cases, presence={"stone": pair})
    assert sorted(held_with(splits, pair)) == [0, 0, 0, 1, 1]
    assert "stone: too few patients (as few as 2) to be validated in every fold" in splits.note


def test_leave_one_out_is_named() -> None:
    assert decide_splits(cases_of(5)).note == "leave-one-out: 5 folds"
    assert decide_splits(cases_of(6)).note == ""


@given(
    st.lists(st.integers(0, 8), min_size=6, max_size=40),
    st.lists(st.sets(st.integers(0, 39)), min_size=1, max_size=4),
)
@settings(max_examples=80, deadline=None)
def test_stratified_folds_are_folds(groups: list[int], having: list[set[int]]) -> None:
    """Every case is held out once, groups stay whole, one rare label differs by one at most."""
    named = {n: f"patient {group}" for n, group in enumerate(groups) if group}
    cases = cases_of(len(groups), named)
    presence = {
        f"label {number}": [case.id for n, case in enumerate(cases) if n in members]
        for number, members in enumerate(having)
    }
    splits = decide_splits(cases, presence=presence)
    assert splits == decide_splits(cases[::-1], presence=presence)
    held = sorted(case for fold in splits.folds for case in fold.validation)
    if len(splits.folds) > 1:
        assert held == [case.id for case in cases]
    group_of = {case.id: case.group or case.id for case in cases}
    for fold in splits.folds:
        assert not {group_of[c] for c in fold.train} & {group_of[c] for c in fold.validation}
    if len(presence) == 1 and not named:
        (ids,) = presence.values()
        counts = held_with(splits, ids)
        if len(ids) < 20:
            assert max(counts) - min(counts) <= 1


def test_presence_is_measured() -> None:
    facts = make_fingerprint([((1.0, 1.0, 1.0), (4, 4, 4))] * 3)
    sizes = [(5, 0), (0, 0), (7, 2)]
    measured = tuple(
        case.model_copy(
            update={
                "labels": tuple(
                    LabelFacts(
                        voxels=n, volume_ml=0, components=1, largest_share=1, extent_mm=(1, 1, 1)
                    )
                    for n in voxels
                )
            }
        )
        for case, voxels in zip(facts.cases, sizes, strict=True)
    )
    dataset = make_dataset(3)
    presence = label_presence(dataset, facts.model_copy(update={"cases": measured}))
    assert presence == {"label 1": ("case_000", "case_002"), "label 2": ("case_002",)}
    assert label_presence(dataset, facts) == {"label 1": (), "label 2": ()}
