"""Folds: k = min(5, n), fixed seed; patients (groups) stay whole, rare labels are spread evenly."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from selfseg.records.dataset import Case, Dataset, Fold, Splits
from selfseg.records.fingerprint import Fingerprint

SEED = 12345  # nnU-Net's, so that results compare fold by fold
# Chance spreads a label of more patients than this a fold well enough.
RARE_PATIENTS_PER_FOLD = 4
NAMES_SHOWN = 3

Presence = Mapping[str, Sequence[str]]


def label_presence(dataset: Dataset, fingerprint: Fingerprint) -> dict[str, tuple[str, ...]]:
    """Return for each label the ids of the cases that have it."""
    return {
        label.name: tuple(
            case.id
            for case in fingerprint.cases
            if index < len(case.labels) and case.labels[index].voxels
        )
        for index, label in enumerate(dataset.labels)
    }


def decide_splits(
    cases: tuple[Case, ...], folds: int = 5, presence: Presence | None = None
) -> Splits:
    """Return the folds over groups; a case without a group is its own.

    Groups of several cases go, the largest first, to the fold that has the fewest cases so far.
    Without groups and rare labels the folds are those of scikit-learn's `KFold(5, shuffle=True,
    random_state=12345)` on the sorted case ids; where these spread the rare labels unevenly, each
    label's groups go one by one to the fold that has the fewest of them.

    Args:
        cases: Cases.
        folds: Wished number.
        presence: For each label the ids of the cases that have it.
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
    order = np.arange(len(names))
    np.random.RandomState(SEED).shuffle(order)
    sizes = [len(groups[name]) for name in names]
    plain = max(sizes) == 1
    held = np.array_split(order, count) if plain else _balanced(order, sizes, count)
    rare = _rare_labels([groups[name] for name in names], count, presence or {})
    uneven = _unevenly_spread(held, rare)
    if uneven:
        held = _stratified(order, sizes, count, rare)
    parts = []
    for members in held:
        held_out = {case for index in members for case in groups[names[index]]}
        parts.append(
            Fold(
                train=tuple(case for case in everything if case not in held_out),
                validation=tuple(sorted(held_out)),
            )
        )
    return Splits(folds=tuple(parts), note=_note(count, folds, len(names), rare, uneven))


def _rare_labels(
    groups: Sequence[Sequence[str]], count: int, presence: Presence
) -> dict[str, frozenset[int]]:
    """Return the groups of each label that some, but only few, groups have."""
    found = {}
    for label, ids in presence.items():
        having = set(ids)
        members = frozenset(n for n, cases in enumerate(groups) if having.intersection(cases))
        if 0 < len(members) < min(len(groups), RARE_PATIENTS_PER_FOLD * count):
            found[label] = members
    return found


def _unevenly_spread(
    held: Sequence[Iterable[int]], rare: Mapping[str, frozenset[int]]
) -> tuple[str, ...]:
    """Return the labels of which one fold holds out at least two groups more than another."""
    uneven = []
    for label, members in rare.items():
        counts = [len(members.intersection(map(int, fold))) for fold in held]
        if max(counts) - min(counts) > 1:
            uneven.append(label)
    return tuple(uneven)


def _stratified(
    order: Iterable[int], sizes: Sequence[int], count: int, rare: Mapping[str, frozenset[int]]
) -> list[list[int]]:
    """Return which groups each fold holds out; the rarest labels are dealt out first.

    Iterative stratification (Sechidis et al. 2011), with the shuffled order in place of chance.
    """
    folds: list[list[int]] = [[] for _ in range(count)]
    waiting = sorted(map(int, order), key=lambda group: -sizes[group])

    def deal(group: int, label: frozenset[int]) -> None:
        min(folds, key=lambda fold: (len(label.intersection(fold)), _size(fold, sizes))).append(
            group
        )
        waiting.remove(group)

    while left := [members & set(waiting) for members in rare.values() if members & set(waiting)]:
        scarce = min(left, key=len)
        whole = next(members for members in rare.values() if members & set(waiting) == scarce)
        for group in [group for group in waiting if group in scarce]:
            deal(group, whole)
    for group in list(waiting):
        deal(group, frozenset())
    return folds


def _balanced(order: Iterable[int], sizes: Sequence[int], count: int) -> list[list[int]]:
    """Return which groups each fold holds out, so that folds have about equally many cases."""
    return _stratified(order, sizes, count, {})


def _size(fold: Iterable[int], sizes: Sequence[int]) -> int:
    return sum(sizes[member] for member in fold)


def _note(
    count: int,
    folds: int,
    patients: int,
    rare: Mapping[str, frozenset[int]],
    uneven: Sequence[str],
) -> str:
    """Say what is special: leave-one-out, stratification, folds that must do without a label."""
    notes = []
    if count == patients:
        notes.append(
            f"leave-one-out: {count} folds"
            + (f", since there are only {patients} patients" if count < folds else "")
        )
    if uneven:
        notes.append(f"stratified, so that every fold has its share of {_shown(uneven)}")
    scarce = [label for label, members in rare.items() if len(members) < count]
    if scarce:
        fewest = min(len(rare[label]) for label in scarce)
        notes.append(
            f"{_shown(scarce)}: too few patients (as few as {fewest}) to be validated in every fold"
        )
    return "; ".join(notes)


def _shown(labels: Sequence[str]) -> str:
    shown = ", ".join(labels[:NAMES_SHOWN])
    return f"{shown} and {len(labels) - NAMES_SHOWN} more" if len(labels) > NAMES_SHOWN else shown
