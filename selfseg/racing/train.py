"""Train an arm of a race on its folds, predict and score what they hold out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selfseg.errors import DivergenceError, RecordError, RefusedShapeError, SelfSegError
from selfseg.execution.processes import default_workers, map_parallel
from selfseg.folds import find_configuration, training_job
from selfseg.inference.trained import PlannedDataset
from selfseg.racing.arms import arm_plan
from selfseg.records import serial
from selfseg.records.ideas import Idea
from selfseg.records.loss_terms import ShapeCodeTerm
from selfseg.records.metrics import CaseScores, MetricsTable
from selfseg.records.model import TrainedFold
from selfseg.records.plan import Configuration
from selfseg.records.race import Arm, ArmResult, RaceLength
from selfseg.requests import RaceRequest, TrainRequest
from selfseg.workspace.dataset import RaceFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Track:
    """Where and how the arms of a race are trained.

    Attributes:
        known: Data set, and the plan without the ideas.
        folder: Of the race.
        configuration: Name of what is raced.
        ideas: All that are raced.
        request: Seed, device, workers.
        topology: Whether scores of topology are wanted.
    """

    known: PlannedDataset
    folder: RaceFolder
    configuration: str
    ideas: tuple[Idea, ...]
    request: RaceRequest
    topology: bool

    def planned_arm(self, arm: Arm) -> PlannedDataset:
        """Return an arm as a planned data set of its own, with the arrays and folds of the first.

        Raises:
            PlanError: An idea does not fit the data, or changes nothing.
        """
        by_name = {idea.name: idea for idea in self.ideas}
        plan = arm_plan(self.known.plan, self.configuration, [by_name[n] for n in arm.ideas])
        return PlannedDataset(
            self.folder.arm(arm.name, self.configuration), plan, self.known.dataset
        )

    def train_request(
        self, fold: str, length: RaceLength | None = None, *, restart: bool = False
    ) -> TrainRequest:
        """Return how a fold is trained."""
        return TrainRequest(
            configuration=self.configuration,
            fold=fold,
            epochs=length.epochs if length else None,
            steps_per_epoch=length.steps_per_epoch if length else None,
            device=self.request.device,
            workers=self.request.workers,
            seed=self.request.seed,
            restart=restart,
        )


def train_arms(
    track: Track, arms: Sequence[Arm], folds: Sequence[str], length: RaceLength
) -> list[ArmResult]:
    """Train arms fold by fold, from where they are; return their scores.

    An arm with ideas whose loss is no longer a number, or whose shape models are all refused, is
    stopped for good; the others go on.

    Raises:
        SelfSegError: As `train`.
    """
    stopped: dict[str, str] = {}
    scores: dict[str, list[CaseScores]] = {arm.name: [] for arm in arms}
    turns = [(fold, arm) for fold in folds for arm in arms]
    for number, (fold, arm) in enumerate(turns, start=1):
        if arm.name in stopped:
            continue
        told = f"training {number} of {len(turns)}, {arm.name}, fold {fold}"
        try:
            scores[arm.name] += _scores(track, arm, fold, length, told).cases
        except DivergenceError as error:
            if not arm.ideas:
                raise
            stopped[arm.name] = f"diverged at step {error.step} of fold {fold}"
        except RefusedShapeError as error:
            stopped[arm.name] = f"no shape model can be used in fold {fold}: {error.message}"
        if arm.name in stopped:
            log.warning("%s: %s", arm.name, stopped[arm.name])
    return [
        ArmResult(arm=name, cases=(), stopped=stopped[name])
        if name in stopped
        else ArmResult(arm=name, cases=tuple(cases))
        for name, cases in scores.items()
    ]


def _scores(track: Track, arm: Arm, fold: str, length: RaceLength, told: str) -> MetricsTable:
    """Return the scores of an arm on what a fold holds out; train it where that is not done."""
    planned = track.planned_arm(arm)
    table = _finished_scores(track, planned, fold, length)
    if table is None:
        log.info("Race: %s", told)
        table = _train(track, planned, fold, length)
    return _with_topology(track, planned, fold, table) if track.topology else table


def _finished_scores(
    track: Track, planned: PlannedDataset, fold: str, length: RaceLength
) -> MetricsTable | None:
    """Return the scores of a fold that is trained and validated, without touching it."""
    configuration = find_configuration(planned.plan, track.configuration)
    trained = planned.describe(configuration, fold)
    if trained is None or not planned.is_validated(configuration, trained):
        return None
    if not _is_raced(track, planned, trained, length):
        return None
    return serial.load(MetricsTable, planned.folder.fold(configuration.name, fold).scores)


def _is_raced(
    track: Track, planned: PlannedDataset, trained: TrainedFold, length: RaceLength
) -> bool:
    """Tell whether a finished fold fits plan and data, and is as long as all others."""
    configuration = find_configuration(planned.plan, track.configuration)
    made = (trained.seed, trained.epochs, trained.steps)
    wanted = (track.request.seed, length.epochs, length.steps)
    return made == wanted and not planned.fault(configuration, trained)


def _must_restart(track: Track, planned: PlannedDataset, fold: str, length: RaceLength) -> bool:
    """Tell whether what lies there of a fold cannot go on: it was begun for another length.

    That happens where `race.json` was lost, and the race is planned anew.
    """
    from selfseg.training.checkpoints import peek

    configuration = find_configuration(planned.plan, track.configuration)
    trained = planned.describe(configuration, fold)
    if trained is not None:
        return not _is_raced(track, planned, trained, length)
    files = planned.folder.fold(track.configuration, fold)
    if not files.checkpoint.is_file():
        return False
    found = peek(files)
    wanted = (track.request.seed, length.steps_per_epoch, length.steps)
    return found is None or (found.seed, found.steps_per_epoch, found.total_steps) != wanted


def _train(track: Track, planned: PlannedDataset, fold: str, length: RaceLength) -> MetricsTable:
    from selfseg.training.shapes import shape_refusal
    from selfseg.training.train import train
    from selfseg.training.validate import validate

    serial.save(planned.plan, planned.folder.plan)  # a model folder has its plan beside it
    restart = _must_restart(track, planned, fold, length)
    job = training_job(planned, track.train_request(fold, length, restart=restart))
    if _brings_shapes(track, planned) and (refusal := shape_refusal(job)):
        raise RefusedShapeError(refusal)  # without models it would be the arm without the idea
    train(job)
    table = validate(job, planned)
    assert table is not None  # folds without held-out cases are not raced
    return table


def _brings_shapes(track: Track, planned: PlannedDataset) -> bool:
    """Tell whether an arm has the shape constraint, and the plain one has not."""
    plain, own = (
        find_configuration(plan, track.configuration) for plan in (track.known.plan, planned.plan)
    )
    return not _constrains_shapes(plain) and _constrains_shapes(own)


def _constrains_shapes(configuration: Configuration) -> bool:
    return any(isinstance(term, ShapeCodeTerm) for term in configuration.loss.terms)


def _with_topology(
    track: Track, planned: PlannedDataset, fold: str, table: MetricsTable
) -> MetricsTable:
    """Return the scores with those of topology; they are kept beside the others."""
    files = planned.folder.fold(track.configuration, fold)
    try:
        known = serial.load(MetricsTable, files.topology)
    except RecordError:
        known = None
    if known is not None and known.basis == table.basis:
        return known
    cases = _score_topology(track, files.validation, [case.case for case in table.cases])
    found = table.model_copy(update={"cases": tuple(cases)})
    serial.save(found, files.topology)
    return found


def _score_topology(track: Track, predictions: Path, names: Sequence[str]) -> list[CaseScores]:
    from selfseg.evaluation.evaluate import Pair, score_files
    from selfseg.evaluation.further import Further
    from selfseg.inference.export import label_map_path

    dataset, further = track.known.dataset, Further(("topology",))
    by_id = {case.id: case for case in dataset.cases}
    pairs = []
    for name in names:
        case = by_id[name]
        assert case.reference is not None  # it was validated against it
        reference = Path(dataset.root) / case.reference.path
        path = label_map_path(predictions, case)
        pairs.append(Pair(name, path, reference, dataset.targets, further=further))
    workers = default_workers(track.request.workers)
    results = map_parallel(score_files, pairs, workers=workers, label="Scoring topology")
    for result in results:
        if isinstance(result, SelfSegError):
            raise result
    return [result for result in results if isinstance(result, CaseScores)]
