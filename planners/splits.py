"""Folds: k = min(5, n), shuffled with a fixed seed, patients (groups) kept together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from selfseg.records.dataset import Case, Fold, Splits

SEED = 12345  # nnU-Net's, so that results compare fold by fold


def decide_splits(cases: tuple[Case, ...], folds: int = 5) -> Splits:
    """Return the folds over groups; a case without a group is its own.

    Groups of several cases go, the largest first, to the fold that has the fewest cases so far.
    Without groups the folds are those of scikit-learn's `KFold(5, shuffle=True,
    random_state=12345)` on the sorted case ids.
    """
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for case in sorted(cases, key=lambda case: case.id):
        groups[f"group {case.group}" if case.group else f"case {case.id}"].append(case.id)
    names = sorted(groups)
    count = min(folds, len(names))
    everything = tuple(sorted(case.id for case in cases))
    if count < 2:
        note = "a single patient: one fold that trains on everything and validates nothing"
        return Splits(folds=(Fold(train=everything, validation=()),), note=note)
    note = "" if count == folds else f"{count} folds, since there are only {len(names)} patients"
    order = np.arange(len(names))
    np.random.RandomState(SEED).shuffle(order)
    sizes = [len(groups[name]) for name in names]
    held_groups = _balanced(order, sizes, count) if max(sizes) > 1 else np.array_split(order, count)
    parts = []
    for held in held_groups:
        held_out = {case for index in held for case in groups[names[index]]}
        parts.append(
            Fold(
                train=tuple(case for case in everything if case not in held_out),
                validation=tuple(sorted(held_out)),
            )
        )
    return Splits(folds=tuple(parts), note=note)


def _balanced(order: Iterable[int], sizes: Sequence[int], count: int) -> list[list[int]]:
    """Return which groups each fold holds out, so that folds have about equally many cases."""
    folds: list[list[int]] = [[] for _ in range(count)]
    for group in sorted(order, key=lambda group: -sizes[group]):
        min(folds, key=lambda fold: sum(sizes[member] for member in fold)).append(group)
    return folds
