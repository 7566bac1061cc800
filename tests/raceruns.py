"""Races with simulated scores in place of trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from racedata import scores_of, with_loss

from selfseg.inference.trained import PlannedDataset
from selfseg.racing import combine, race
from selfseg.racing.train import Track
from selfseg.records import serial
from selfseg.records.dataset import Splits
from selfseg.records.ideas import Idea
from selfseg.records.loss import Loss, LossTerm
from selfseg.records.metrics import CaseScores
from selfseg.records.race import Arm, ArmResult, RaceLength
from selfseg.requests import RaceRequest

Gains = Mapping[frozenset[str], float]


class Simulated:
    """In place of `train_arms`: every arm scores what its ideas gain; keeps what was trained."""

    def __init__(self, known: PlannedDataset, gains: Gains) -> None:
        self.splits = serial.load(Splits, known.folder.splits)
        self.gains = gains
        self.trained: list[tuple[str, ...]] = []

    def __call__(
        self, track: Track, arms: Sequence[Arm], folds: Sequence[str], length: RaceLength
    ) -> list[ArmResult]:
        """Return scores (with a spread that is the same in all arms)."""
        self.trained += [arm.ideas for arm in arms]
        self.topology = track.topology
        return [ArmResult(arm=arm.name, cases=self._cases(arm, folds)) for arm in arms]

    def _cases(self, arm: Arm, folds: Sequence[str]) -> tuple[CaseScores, ...]:
        gain = self.gains.get(frozenset(arm.ideas), 0.0)
        return scores_of(self.splits, folds, gain)


def start(
    known: PlannedDataset, monkeypatch: pytest.MonkeyPatch, gains: Gains, **options: object
) -> tuple[race.RaceResult, Simulated]:
    """Race with simulated trainings."""
    simulated = Simulated(known, gains)
    monkeypatch.setattr(race, "train_arms", simulated)
    monkeypatch.setattr(combine, "train_arms", simulated)
    request = RaceRequest(**options)  # type: ignore[arg-type]
    return race.race_dataset("phantom", known.folder.path.parent, request), simulated


def gains_of(**gains: float) -> Gains:
    """Return gains by ideas: `focal_and_top_k=0.02`."""
    return {frozenset(names.split("_and_")): gain for names, gain in gains.items()}


def nominate(known: PlannedDataset, *ideas: Idea, terms: tuple[LossTerm, ...]) -> None:
    """Write a plan with another loss and other ideas."""
    plan = known.plan.model_copy(update={"nominated": ideas})
    serial.save(with_loss(plan, "3d_fullres", Loss(terms=terms)), known.folder.plan)
