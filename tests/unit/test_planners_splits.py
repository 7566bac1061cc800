"""Folds of grouped cases: whole groups, about equally many cases a fold."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from selfseg.planners.splits import decide_splits

from selfseg.records.dataset import Case, Splits


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
