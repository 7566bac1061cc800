"""Simulated races: workspaces and scores of arms on held-out cases, without any training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from selectiondata import write_members
from tinymodel import tiny_configuration, tiny_plan

from selfseg.folds import find_configuration
from selfseg.inference.trained import PlannedDataset
from selfseg.racing.judge import Ground, judge
from selfseg.racing.rules import find_racer
from selfseg.records import serial
from selfseg.records.dataset import Fold, Splits
from selfseg.records.ideas import Idea, IdeaTrial, RaceGain
from selfseg.records.loss import Loss, LossTerm
from selfseg.records.loss_terms import FocalTerm, TopKTerm, TverskyTerm
from selfseg.records.metrics import CaseScores, LabelScores, TopologyScores
from selfseg.records.plan import Decision, Plan
from selfseg.records.race import (
    Arm,
    ArmResult,
    RaceBasis,
    RacedCase,
    RaceLength,
    RaceRecord,
    RaceTrial,
)
from selfseg.records.transfer import Start

NAMES = ("core", "rim")
MODEL = Start(folder="other", configuration="3d_fullres")
TRANSFER = Idea(name="transfer", configuration="3d_fullres", start=MODEL, because="it may help")
BORROW = Idea(name="auxiliary", configuration="3d_fullres", borrows=True, because="asked for")
DECISION = Decision(rule="race.length", subject="trainings", value="", because="")


def an_idea(name: str = "worst", *terms: LossTerm, replaces: tuple[str, ...] = ()) -> Idea:
    """Return an idea for 3d_fullres (default: a further term)."""
    return Idea(
        name=name,
        configuration="3d_fullres",
        terms=terms or (TopKTerm(),),
        replaces=replaces,
        because="the data suggest it",
    )


def label_scores(
    dice: float | None, nsd: float | None, cldice: float | None = None, betti0: float | None = None
) -> LabelScores:
    """Return scores of which a race reads Dice and NSD, and clDice and Betti error if given."""
    topology = None
    if betti0 is not None:
        topology = TopologyScores(
            betti0_error=betti0,
            betti1_error=0.0,
            betti2_error=0.0,
            betti0_window_error=None,
            betti1_window_error=None,
            betti2_window_error=None,
            cldice=cldice,
            thin_recall=None,
            thick_recall=None,
        )
    return LabelScores(
        dice=dice,
        iou=None,
        hd95_mm=None,
        assd_mm=None,
        nsd=nsd,
        volume_difference_ml=None,
        topology=topology,
    )


def cases_of(count: int, folds: int = 5) -> tuple[RacedCase, ...]:
    """Return cases of as many patients; the folds hold out about as many each."""
    names = [f"case_{i}" for i in range(count)]
    numbers = sorted(i % folds for i in range(count))
    pairs = zip(names, numbers, strict=True)
    return tuple(RacedCase(case=name, group=name, fold=str(fold)) for name, fold in pairs)


def ground_of(cases: tuple[RacedCase, ...]) -> Ground:
    """Return the ground of a race by the default rules."""
    return Ground(cases, NAMES, 500, find_racer())


def simulate(
    rng: np.random.Generator, cases: Sequence[RacedCase], gains: Sequence[float]
) -> list[ArmResult]:
    """Return the scores of arms that gain so much on average, the plain one first.

    A case is hard or easy for all arms (standard deviation 10 points). Every training has its luck,
    on all cases of its fold (half a point), and on each case (2 points, with heavy tails: a case in
    ten changes by much more). Labels and both metrics share half of that.
    """
    hardness = 0.8 + 0.1 * rng.standard_normal((len(cases), 1, 1))
    fold_of = np.array([int(case.fold) for case in cases])
    arms = []
    for number, gain in enumerate((0.0, *gains)):
        luck = 0.005 * rng.standard_normal(fold_of.max() + 1)[fold_of]
        heavy = np.where(rng.random(len(cases)) < 0.1, 2.5, 0.6)
        shared = 0.02 * heavy * rng.standard_normal(len(cases))
        own = 0.014 * rng.standard_normal((len(cases), len(NAMES), 2))
        scores = hardness + gain + (luck + shared)[:, None, None] + own
        scored = tuple(
            CaseScores(
                case=case.case,
                labels={
                    name: label_scores(float(pair[0]), float(pair[1]))
                    for name, pair in zip(NAMES, np.clip(rows, 0, 1), strict=True)
                },
            )
            for case, rows in zip(cases, scores, strict=True)
        )
        arms.append(ArmResult(arm=str(number), cases=scored))
    return arms


def verdicts(
    rng: np.random.Generator, cases: tuple[RacedCase, ...], gains: Sequence[float]
) -> list[RaceTrial]:
    """Return the trial of every idea of a simulated race."""
    plain, *others = simulate(rng, cases, gains)
    ground = ground_of(cases)
    found = []
    for number, result in enumerate(others):
        idea = an_idea(f"idea {number}")
        found.append(judge(ground, idea, Arm(ideas=(idea.name,)), result, Arm(), plain))
    return found


def with_loss(plan: Plan, name: str, loss: Loss) -> Plan:
    """Return a plan with another loss of one configuration."""
    item = find_configuration(plan, name)
    return plan.with_configuration(item.model_copy(update={"loss": loss}))


def a_plan(*ideas: Idea) -> Plan:
    """Return a plan with one configuration and nominated ideas."""
    return tiny_plan().model_copy(update={"nominated": ideas})


def a_trial(*, accepted: bool = False, on_top_of: tuple[str, ...] = ()) -> IdeaTrial:
    """Return what a race found of an idea."""
    gain = {"value": 0.02, "lower": 0.01, "upper": 0.03}
    gains = (RaceGain.model_validate({"metric": "mean of dice and nsd", "gain": gain}),)
    return IdeaTrial(
        on_top_of=on_top_of,
        folds=("0", "1"),
        cases=40,
        steps=500,
        gains=gains,
        worst_change=0.0,
        accepted=accepted,
        because="measured",
    )


def a_record(ideas: tuple[Idea, ...], trials: tuple[RaceTrial, ...]) -> RaceRecord:
    """Return a finished race of `a_plan(*ideas)` without acceptance."""
    configuration = tiny_configuration()
    fold = Fold(train=("a",), validation=("b",))
    return RaceRecord(
        dataset="phantom",
        basis=RaceBasis(
            configuration=configuration,
            ideas=ideas,
            folds=("0", "1"),
            splits=Splits(folds=(fold, fold)),
            files="",
            seed=0,
            total_s=None,
        ),
        length=RaceLength(epochs=5, steps_per_epoch=100, further_arms=1, decision=DECISION),
        arms=(Arm(), *(Arm(ideas=(idea.name,)) for idea in ideas)),
        cases=cases_of(4, 2),
        trials=trials,
        loss=configuration.loss,
        finished=True,
    )


CASES = 20
FOLDS = 4
IDEAS = (
    an_idea("top_k", TopKTerm()),
    an_idea("focal", FocalTerm()),
    an_idea("tversky", TverskyTerm()),
)


def nothing(*_: object) -> npt.NDArray[np.float64]:
    """Return no probabilities: no fold is trained here."""
    raise AssertionError


def write_unraced(folder: Path) -> PlannedDataset:
    """Write a workspace of twenty cases in four folds, nothing trained, three ideas."""
    found = write_members(folder, {"3d_fullres": nothing}, cases=CASES, folds={"3d_fullres": ()})
    serial.save(found.dataset, found.folder.dataset)
    ids = [case.id for case in found.dataset.cases]
    parts = [(ids[n::FOLDS], [c for c in ids if c not in ids[n::FOLDS]]) for n in range(FOLDS)]
    folds = tuple(Fold(train=tuple(rest), validation=tuple(own)) for own, rest in parts)
    serial.save(Splits(folds=folds), found.folder.splits)
    plan = found.plan.model_copy(update={"nominated": IDEAS})
    serial.save(plan, found.folder.plan)
    return PlannedDataset(found.folder, plan, found.dataset)


def scores_of(splits: Splits, folds: Sequence[str], gain: float) -> tuple[CaseScores, ...]:
    """Return scores of what folds hold out: 0.5 and a gain, with a spread of all gains but 0."""
    held_out = [case for fold in folds for case in splits.folds[int(fold)].validation]
    spread = 0.002 * (gain != 0)
    dice = {case: 0.5 + gain + spread * (n % 3 - 1) for n, case in enumerate(held_out)}
    return tuple(
        CaseScores(case=case, labels={name: label_scores(value, value) for name in NAMES})
        for case, value in dice.items()
    )
