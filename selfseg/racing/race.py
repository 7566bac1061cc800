"""`selfseg race`: train plain and with ideas on equal folds, judge, combine, write the plan."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from selfseg.errors import RecordError, SelfSegError
from selfseg.execution.locks import held
from selfseg.folds import find_configuration, open_planned, training_job
from selfseg.inference.trained import PlannedDataset, previous_digest
from selfseg.racing.arms import (
    apply_ideas,
    describe_rest,
    entrants,
    without_ideas,
)
from selfseg.racing.combine import combine
from selfseg.racing.judge import Ground, judge
from selfseg.racing.outcome import write_outcome
from selfseg.racing.rules import Racer, find_racer
from selfseg.racing.train import Track, train_arms
from selfseg.records import serial
from selfseg.records.dataset import Splits
from selfseg.records.ideas import Idea
from selfseg.records.plan import Configuration
from selfseg.records.race import Arm, RaceBasis, RacedCase, RaceMetric, RaceRecord
from selfseg.records.run import MEASURING_SHARE
from selfseg.requests import RaceRequest
from selfseg.speeds import case_seconds, loss_step_seconds
from selfseg.starting import start_of_fold
from selfseg.words import counted
from selfseg.workspace.dataset import RaceFolder
from selfseg.workspace.lookup import planned_folder

log = logging.getLogger(__name__)

TOPOLOGY: frozenset[RaceMetric] = frozenset({"cldice", "betti0"})


@dataclass(frozen=True)
class RaceResult:
    """What a race found, and where it lies; without ideas only what was looked at."""

    record: RaceRecord | None
    folder: RaceFolder | None
    note: str = ""


def race_dataset(dataset: str, workspace: Path, request: RaceRequest) -> RaceResult:
    """Race nominated ideas of one configuration against its plain plan; accept what wins.

    Each arm is trained on the same folds with the same seed and number of steps. Where an idea is a
    start or an auxiliary data set, the plain arm is trained without it. Accepted ideas join the
    plan, others leave it; what was found of every idea is written to the plan as well. The same
    command goes on after an interruption.

    Raises:
        SelfSegError: As `train`; fewer than two patients are held out; no time for a single step;
            another process races; the plan's configuration was changed meanwhile; a model to start
            from is not there, or has seen a held-out case.
    """
    known = open_planned(planned_folder(workspace, dataset), dataset)
    names = known.plan.proposed or tuple(item.name for item in known.plan.configurations)
    configuration = find_configuration(known.plan, request.configuration or names[0])
    racer = find_racer(known.plan.planner)
    most = racer.race_rules().most_ideas
    ideas = entrants(known.plan, configuration, request.ideas, most)
    if not ideas:
        return RaceResult(None, None, describe_rest(known.plan, configuration))
    configuration = without_ideas(configuration, ideas)
    plan = known.plan.with_configuration(configuration)
    known = PlannedDataset(known.folder, plan, known.dataset)
    basis = _basis(known, configuration, ideas, request)
    cases = raced_cases(known, basis)
    if len(basis.folds) < racer.race_rules().fewest_folds:
        log.warning("One fold: nothing can be accepted, as one training may just have been lucky")
    folder = known.folder.race(configuration.name, serial.digest(basis)[:8])
    with held(folder.lock, f"{configuration.name} is being raced"):
        topology = any(TOPOLOGY & {*racer.race_metrics(idea)} for idea in ideas)
        track = Track(known, folder, configuration.name, basis.ideas, request, topology)
        record = _former(folder) or _begin(track, basis, cases, racer)
        if not record.finished:
            record = _run(track, record, racer)
            serial.save(record, folder.record)
        _draw(record, folder)
        write_outcome(known.folder, record)
    return RaceResult(record, folder)


def raced_cases(known: PlannedDataset, basis: RaceBasis) -> tuple[RacedCase, ...]:
    """Return the held-out cases by fold, in the order in which they are scored.

    Raises:
        SelfSegError: They are of fewer than two patients.
    """
    held_out = [
        RacedCase(case=case.id, group=case.group or case.id, fold=fold)
        for fold in basis.folds
        for case in known.dataset.cases
        if case.id in basis.splits.folds[int(fold)].validation
    ]
    patients = {case.group for case in held_out}
    if len(patients) < 2:
        raise SelfSegError(
            f"{known.folder.splits}: fold {', '.join(basis.folds)} holds out "
            f"{counted(len(held_out), 'case')} of {counted(len(patients), 'patient')}: nothing can "
            "be learned from a race",
            remedy="Race on more folds, or plan the data set with more patients.",
        )
    return tuple(held_out)


def _basis(
    known: PlannedDataset, configuration: Configuration, ideas: Sequence[Idea], request: RaceRequest
) -> RaceBasis:
    splits = serial.load(Splits, known.folder.splits)
    numbered = [str(n) for n, fold in enumerate(splits.folds) if fold.validation]
    folds = tuple(dict.fromkeys(request.folds or numbered))
    unknown = [fold for fold in folds if fold not in numbered]
    if unknown:
        raise SelfSegError(
            f"--folds {','.join(folds)}: {', '.join(unknown)} of {known.folder.splits} does not "
            "exist or holds out no case",
            remedy=f"Choose from {', '.join(numbered) or 'none'}.",
        )
    # all that some arm reads
    widest = configuration
    if any(idea.borrows for idea in ideas):
        widest = configuration.model_copy(update={"borrows": True})
    return RaceBasis(
        configuration=configuration,
        ideas=tuple(idea.model_copy(update={"trials": ()}) for idea in ideas),
        folds=folds,
        splits=splits,
        files=known.data_digest(widest, [case.id for case in known.dataset.cases]),
        previous=previous_digest(known.folder, configuration),
        seed=request.seed,
        total_s=request.time_s,
        auxiliary=known.plan.borrowed(widest),
        starts=_starts(known, splits, folds, [configuration, *_started(configuration, ideas)]),
    )


def _started(configuration: Configuration, ideas: Sequence[Idea]) -> list[Configuration]:
    """Return a configuration with each idea that is a start."""
    return [apply_ideas(configuration, [idea]) for idea in ideas if idea.start is not None]


def _starts(
    known: PlannedDataset, splits: Splits, folds: Sequence[str], items: Sequence[Configuration]
) -> tuple[str, ...]:
    """Return digests of the weights that configurations start from on folds.

    Raises:
        ModelError: A model is not there, does not fit, or has seen what a fold holds out: no arm
            is trained then.
    """
    from selfseg.training.start import refuse_misfit

    digests = []
    for item in items:
        for fold in folds if item.start is not None else ():
            source = start_of_fold(known, item, fold, splits.folds[int(fold)].validation)
            assert source is not None  # of a configuration that has a start
            refuse_misfit(source, known.plan, item)
            digests.append(source.model.digest)
    return tuple(digests)


def _former(folder: RaceFolder) -> RaceRecord | None:
    if not folder.record.is_file():
        return None
    try:
        record = serial.load(RaceRecord, folder.record)
    except RecordError as error:
        log.warning("Planning the race anew: %s", error.message)
        return None
    log.info("%s", "Finished before" if record.finished else f"Going on with {folder.path}")
    return record


def _begin(
    track: Track, basis: RaceBasis, cases: tuple[RacedCase, ...], racer: Racer
) -> RaceRecord:
    """Measure the arms, decide how long the trainings are, and write that down.

    Raises:
        PlanError: An idea does not fit the plan.
        SelfSegError: The time is too short for a single step.
    """
    began_s = time.monotonic()
    arms = [Arm(), *(Arm(ideas=(idea.name,)) for idea in track.ideas)]
    for arm in arms:
        track.planned_arm(arm)  # refused before any time is spent
    arms = [_measured(track, arm, basis) for arm in arms]
    plain_s = arms[0].step_s or 0.0
    item = basis.configuration
    left_s = None if basis.total_s is None else basis.total_s - (time.monotonic() - began_s)
    length = racer.race_length(
        arms,
        [sum(case.fold == fold for case in cases) for fold in basis.folds],
        case_seconds(track.known.plan, item, plain_s, mirrored=_mirrors(basis, arms, left_s)),
        item.optimization,
        left_s,
    )
    if not length.steps:
        raise SelfSegError(
            f"--time: no step fits ({length.decision.because})",
            remedy="Give more time, race fewer ideas (--ideas), or fewer folds (--folds).",
        )
    record = RaceRecord(
        dataset=track.known.plan.dataset,
        basis=basis,
        length=length,
        arms=tuple(arms),
        cases=cases,
        loss=item.loss,
    )
    serial.save(record, track.folder.record)
    return record


def _mirrors(basis: RaceBasis, arms: Sequence[Arm], left_s: float | None) -> bool:
    """Tell whether trainings of about the length that the time allows predict mirrored images."""
    from selfseg.training.schedule import choose_recipe

    options = basis.configuration.optimization
    steps = float(options.epochs * options.steps_per_epoch)
    if left_s is not None:
        all_s = len(basis.folds) * sum(arm.step_s or 0.0 for arm in arms)
        steps = min(steps, left_s / all_s)
    recipe, _ = choose_recipe(options, steps)
    return recipe.mirror


def _measured(track: Track, arm: Arm, basis: RaceBasis) -> Arm:
    """Return an arm with the time of its step, where time is limited."""
    if basis.total_s is None:
        return arm
    job = training_job(track.planned_arm(arm), track.train_request(basis.folds[0]))
    step_s = loss_step_seconds(job, limit_s=MEASURING_SHARE * basis.total_s)
    log.info("%s: %.3g s a step", arm.name, step_s)
    return arm.model_copy(update={"step_s": step_s})


def _run(track: Track, record: RaceRecord, racer: Racer) -> RaceRecord:
    """Train and judge all single ideas, then combine those that won."""
    _tell(record)
    results = train_arms(track, record.arms, record.basis.folds, record.length)
    expected = [case.case for case in record.cases]
    for result in results:
        assert result.stopped or [case.case for case in result.cases] == expected
    names = track.known.plan.targets.names
    ground = Ground(record.cases, names, record.length.steps, racer)
    plain, *single = zip(record.arms, results, strict=True)
    trials = [
        judge(ground, idea, *with_idea, *plain)
        for idea, with_idea in zip(track.ideas, single, strict=True)
    ]
    record = record.model_copy(update={"results": tuple(results), "trials": tuple(trials)})
    record = combine(track, record, ground)
    by_name = {idea.name: idea for idea in track.ideas}
    won = apply_ideas(record.basis.configuration, [by_name[name] for name in record.accepted])
    return record.model_copy(update={"loss": won.loss, "finished": True})


def _tell(record: RaceRecord) -> None:
    """Log what will be trained."""
    basis, length = record.basis, record.length
    log.info(
        "Race of %s: %d arms × folds %s, %s (%s)",
        basis.configuration.name, len(record.arms), ", ".join(basis.folds),
        length.decision.value, length.decision.because,
    )  # fmt: skip
    trainings, further = len(record.arms) * len(basis.folds), length.further_arms
    log.info(
        "%d trainings, %s steps in all%s", trainings, f"{trainings * length.steps:,}",
        f"; for ideas together up to {further * len(basis.folds)} more" if further else "",
    )  # fmt: skip
    for arm in record.arms:
        changes = chain(*(idea.changes for idea in basis.ideas if idea.name in arm.ideas))
        told = ", ".join(changes)
        taken = f", {arm.step_s:.3g} s a step" if arm.step_s is not None else ""
        log.info("  %s%s%s", arm.name, f" ({told})" if told else "", taken)


def _draw(record: RaceRecord, folder: RaceFolder) -> None:
    from selfseg.reporting.race_plot import save_differences

    save_differences(record, folder.differences)
