"""Folds: k = min(5, n), shuffled with a fixed seed, patients (groups) kept together."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from selfseg.records.dataset import Case, Fold, Splits

SEED = 12345  # nnU-Net's, so that results compare fold by fold


def decide_splits(cases: tuple[Case, ...], folds: int = 5) -> Splits:
    """Return the folds over groups; a case without a group is its own.

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
    parts = []
    for held in np.array_split(order, count):
        held_out = {case for index in held for case in groups[names[index]]}
        parts.append(
            Fold(
                train=tuple(case for case in everything if case not in held_out),
                validation=tuple(sorted(held_out)),
            )
        )
    return Splits(folds=tuple(parts), note=note)
