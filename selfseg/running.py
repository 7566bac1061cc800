"""`selfseg run`: plan, train what is proposed, select, within a time limit, over interruptions."""

from __future__ import annotations

import logging
import shlex
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from selfseg import pipeline, planning
from selfseg.errors import NoPlanError, RecordError, SelfSegError
from selfseg.execution.locks import held
from selfseg.folds import find_configuration, open_planned, training_device
from selfseg.inference.trained import PlannedDataset
from selfseg.plan import refuse_other_plan
from selfseg.records import serial
from selfseg.records.dataset import Splits
from selfseg.records.plan import Plan
from selfseg.records.run import MEASURING_SHARE, RunRecord, Schedule, Speed, Training
from selfseg.records.selection import Selection, ValidationTiming
from selfseg.requests import (
    PlanRequest,
    RunRequest,
    SelectRequest,
    TrainRequest,
)
from selfseg.speeds import case_seconds
from selfseg.workspace.dataset import DatasetFolder
from selfseg.workspace.lookup import planned_folder

log = logging.getLogger(__name__)

WRITE_EVERY_S = 3.0  # so much of the elapsed time may be forgotten by a kill
SHORTEST_TRAINING_S = 5.0


@dataclass(frozen=True)
class RunResult:
    """What a run made, and where; no selection where no case is held out."""

    folder: DatasetFolder
    record: RunRecord
    selection: Selection | None


@dataclass
class Clock:
    """The time that a run has taken, over all restarts; writes it down while it passes."""

    path: Path
    record: RunRecord
    began_s: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def elapsed_s(self) -> float:
        """Seconds so far."""
        return self.record.elapsed_s + time.monotonic() - self.began_s

    def write(self, *, finished: bool = False) -> RunRecord:
        """Write the record with the time that has passed."""
        with self._lock:
            changes = {"elapsed_s": round(self.elapsed_s, 2), "finished": finished}
            record = self.record.model_copy(update=changes)
            serial.save(record, self.path)
        return record

    @contextmanager
    def ticking(self) -> Iterator[None]:
        """Write every few seconds."""
        over = threading.Event()

        def tick() -> None:
            while not over.wait(WRITE_EVERY_S):
                self.write()

        thread = threading.Thread(target=tick, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self.write()


def run_dataset(source: str, workspace: Path, request: RunRequest) -> RunResult:
    """Plan a dataset, train the proposed configurations and folds, and select the best of them.

    A plan that is there is used as it stands. With a time limit the schedule is made at the start,
    and the time that is left is divided anew before every training. The same command goes on after
    an interruption; only time spent running counts.

    Raises:
        SelfSegError: As `plan`, `train` and `select`; another process runs this dataset; the plan
            that is there was made with other options.
    """
    began_s = time.monotonic()
    folder = _planned(source, workspace, request)
    with held(folder.run_lock, "is run"):
        known = open_planned(folder, source)
        former = _former(folder, request)
        if former is None:
            former = _begin(known, request, began_s)
        clock = Clock(folder.run, former, began_s=began_s)
        with clock.ticking():
            _train_all(known, clock, workspace, request)
            selection = None
            if any(former.schedule.validation_cases):
                options = SelectRequest(device=request.device, workers=request.workers)
                selection = pipeline.select_models(known.plan.dataset, workspace, options)
        record = clock.write(finished=True)
    return RunResult(folder, record, selection)


def _begin(known: PlannedDataset, request: RunRequest, began_s: float) -> RunRecord:
    """Measure, and decide what is trained."""
    splits = serial.load(Splits, known.folder.splits)
    speeds = _speeds(known.plan, request, trainings_each=len(splits.folds))
    held_out = [len(fold.validation) for fold in splits.folds]
    left_s = None
    if request.time_s is not None:
        left_s = request.time_s - (time.monotonic() - began_s)
    scheduler = planning.find_scheduler(known.plan.planner)
    schedule = scheduler.schedule(speeds, held_out, left_s)
    return RunRecord(total_s=request.time_s, elapsed_s=0.0, speeds=speeds, schedule=schedule)


def time_table(
    known: PlannedDataset, record: RunRecord, elapsed_s: float
) -> list[tuple[Training, float | None]]:
    """Return every training that is left with the seconds it may take (None: the plan's length).

    Raises:
        SelfSegError: A finished fold does not fit plan or data any more.
    """
    left = _left(known, record.schedule)
    if record.total_s is None or not left:
        return [(training, None) for training in left]
    used_s = _used_s(known.folder, left[0])
    each_s = planning.find_scheduler(known.plan.planner).time_each(
        left,
        _held_out(record.schedule),
        _measured(known.folder, record),
        record.total_s - elapsed_s,
        used_s=used_s,
    )
    return [(training, max(each_s, used_s + SHORTEST_TRAINING_S)) for training in left]


def _planned(source: str, workspace: Path, request: RunRequest) -> DatasetFolder:
    try:
        folder = planned_folder(workspace, source)
    except NoPlanError:
        options = PlanRequest(
            planner=request.planner, memory=request.memory, device=request.device,
            cases=request.cases, start=request.start, auxiliary=request.auxiliary,
            workers=request.workers,
        )  # fmt: skip
        return pipeline.plan_dataset(source, workspace, options).folder
    refuse_other_plan(folder, workspace, request)
    log.info("Using the plan that is there: %s", folder.plan)
    return folder


def _former(folder: DatasetFolder, request: RunRequest) -> RunRecord | None:
    """Return the record of a run with the same limit that was not finished."""
    if not folder.run.is_file():
        return None
    try:
        record = serial.load(RunRecord, folder.run)
    except RecordError as error:
        log.warning("Starting anew: %s", error.message)
        return None
    if record.finished or record.total_s != request.time_s:
        return None
    log.info("Going on after %.1f minutes", record.elapsed_s / 60)
    return record


def _speeds(plan: Plan, request: RunRequest, *, trainings_each: int) -> tuple[Speed, ...]:
    """Measure every proposed configuration; without a time limit nothing needs to be known."""
    from selfseg.training.job import measure_step_s
    from selfseg.training.schedule import choose_recipe

    device = training_device(plan, request.device)
    names = plan.proposed or tuple(item.name for item in plan.configurations)
    speeds = []
    for name in names:
        item = find_configuration(plan, name)
        step_s, mirrored = 0.0, False
        if request.time_s is not None:
            limit_s = MEASURING_SHARE * request.time_s
            step_s = measure_step_s(plan, item, device, limit_s=limit_s)
            log.info("%s: %.2f s a step", name, step_s)
            steps = request.time_s / step_s / (trainings_each * len(names))
            recipe, _ = choose_recipe(item.optimization, steps)
            mirrored = recipe.mirror
        speeds.append(
            Speed(
                configuration=name,
                previous_stage=item.previous_stage,
                step_s=step_s,
                case_s=case_seconds(plan, item, step_s, mirrored=mirrored),
            )
        )
    return tuple(speeds)


def _train_all(known: PlannedDataset, clock: Clock, workspace: Path, request: RunRequest) -> None:
    while table := time_table(known, clock.record, clock.elapsed_s):
        _log_table(table, clock)
        training, seconds = table[0]
        pipeline.train_fold(
            known.folder.path.name,
            workspace,
            TrainRequest(
                configuration=training.configuration,
                fold=training.fold,
                time_s=seconds,
                device=request.device,
                workers=request.workers,
                seed=request.seed,
            ),
        )


def _log_table(table: Sequence[tuple[Training, float | None]], clock: Clock) -> None:
    log.info("%s: %s", clock.record.schedule.decision.value, clock.record.schedule.decision.because)
    for training, seconds in table:
        length = "the plan's length" if seconds is None else f"{seconds / 60:.1f} min"
        log.info("  %s fold %s: %s", training.configuration, training.fold, length)


def _left(known: PlannedDataset, schedule: Schedule) -> list[Training]:
    """Return the trainings whose fold is not trained and validated yet."""
    left, outdated = [], []
    for training in schedule.trainings:
        configuration = find_configuration(known.plan, training.configuration)
        fold = known.describe(configuration, training.fold)
        if fold is not None and (fault := known.fault(configuration, fold)):
            outdated.append(f"{training.configuration} fold {training.fold} {fault}")
        if fold is None or not known.is_validated(configuration, fold):
            left.append(training)
    if outdated:
        command = f"selfseg train {shlex.quote(known.plan.dataset)} {outdated[0].split()[0]}"
        raise SelfSegError(
            f"{known.folder.path}: {'; '.join(outdated)}",
            remedy=f"Train what is named again ('{command} FOLD --restart'), or restore plan and "
            "folds: 'selfseg status' names them.",
        )
    return left


def _used_s(folder: DatasetFolder, training: Training) -> float:
    """Return the time that an interrupted training has had up to its checkpoint."""
    from selfseg.training.checkpoints import peek

    position = peek(folder.fold(training.configuration, training.fold))
    return position.elapsed_s if position else 0.0


def _held_out(schedule: Schedule) -> list[int]:
    """Return the held-out cases by fold."""
    pairs = zip(schedule.trainings, schedule.validation_cases, strict=True)
    known = {int(training.fold): cases for training, cases in pairs}
    return [known.get(fold, 0) for fold in range(max(known, default=-1) + 1)]


def _measured(folder: DatasetFolder, record: RunRecord) -> tuple[Speed, ...]:
    """Return the speeds, with the time of a case as measured where a fold was validated."""
    speeds = []
    for speed in record.speeds:
        timings = [
            serial.load(ValidationTiming, files.timing)
            for t in record.schedule.trainings
            if t.configuration == speed.configuration
            and (files := folder.fold(t.configuration, t.fold)).timing.is_file()
        ]
        cases = sum(timing.cases for timing in timings)
        case_s = sum(t.seconds for t in timings) / cases if cases else speed.case_s
        speeds.append(speed.model_copy(update={"case_s": case_s}))
    return tuple(speeds)
