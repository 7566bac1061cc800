"""`plan` as a function: data checked and measured, everything decided, arrays prepared."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from selfseg import planning
from selfseg.adopting import adopt_model, judge_model, with_verdict
from selfseg.auxiliary import borrow
from selfseg.budget import detect_budget, parse_gib
from selfseg.errors import RecordError, SelfSegError
from selfseg.execution.locks import waited_for
from selfseg.execution.processes import default_workers
from selfseg.plan_checks import MEND_PLAN, check_plan
from selfseg.plan_edits import edit_plan
from selfseg.planned import PlanResult, refuse_less
from selfseg.preparing import prepare_all
from selfseg.records import serial
from selfseg.records.dataset import Dataset, Splits
from selfseg.records.fingerprint import Fingerprint
from selfseg.records.plan import Budget, Plan
from selfseg.records.transfer import Start
from selfseg.replanning import (
    PlannedState,
    newly_outdated,
    refuse_while_training,
    tell_of_outdated,
)
from selfseg.requests import PlanRequest, RunRequest, read_case_list
from selfseg.starting import is_planned, opened_start, pinned, planned_as
from selfseg.workspace.dataset import DatasetFolder
from selfseg.workspace.lookup import dataset_folder, planned_names, refuse_namesake

if TYPE_CHECKING:
    from selfseg.training.transfer import SourceModel

log = logging.getLogger(__name__)


def plan_dataset(source: str, workspace: Path, request: PlanRequest) -> PlanResult:
    """Check and measure a dataset, decide everything, and prepare the training arrays.

    Args:
        source: Data folder, or the name of a dataset planned before.
        workspace: Root of the workspace.
        request: Options.

    Raises:
        DatasetError: All complaints about the dataset at once; nothing is written then.
        PlanError: A setting does not fit the plan; no plan fits the model to start from; or a plan
            would be replaced, by name, without what it was made with.
        ModelError: There is no such model to start from.
    """
    budget = detect_budget(request.memory, request.device)  # bad options are told first
    planning.find_planner(request.planner)
    with _opened_model(request) as model:
        result, auxiliary = _decide(source, workspace, request, budget, model)
    _write(result, auxiliary)
    if request.preprocess:
        workers = default_workers(request.workers)
        prepare_all(result.folder, result.dataset, result.plan.configurations, workers=workers)
    return result


def refuse_other_plan(folder: DatasetFolder, workspace: Path, request: RunRequest) -> None:
    """Refuse options of a run that ask for another plan than the one that is there.

    Raises:
        SelfSegError: Names these options, or one that is no amount of memory.
    """
    memory_gib = None if request.memory is None else parse_gib(request.memory, "--memory")
    plan, dataset = serial.load(Plan, folder.plan), serial.load(Dataset, folder.dataset)
    wanted = read_case_list(request.cases)
    differing = []
    if wanted is not None and set(wanted) != {case.id for case in dataset.cases}:
        differing.append(f"--cases {request.cases}")
    if memory_gib not in (None, plan.budget.memory_gib):
        differing.append(f"--memory {request.memory}")
    if request.planner not in (RunRequest.planner, plan.planner):
        differing.append(f"--planner {request.planner}")
    if request.start is not None and not is_planned(request.start, plan.init, workspace):
        differing.append(f"--init {request.start.folder}")
    if request.auxiliary is not None and not _borrows(folder, plan, request.auxiliary, workspace):
        differing.append(f"--auxiliary {request.auxiliary}")
    if differing:
        raise SelfSegError(
            f"{folder.plan}: was made without {' and '.join(differing)}",
            remedy="Plan again with these options ('selfseg plan'), leave them out, or use "
            "another --workspace.",
        )


def _borrows(folder: DatasetFolder, plan: Plan, auxiliary: str, workspace: Path) -> bool:
    """Tell whether a plan has this auxiliary data set, by folder or name."""
    if plan.auxiliary is None:
        return False
    there = Path(serial.load(Dataset, folder.auxiliary).root)
    return data_root(auxiliary, workspace).resolve() == there.resolve()


@contextmanager
def _opened_model(request: PlanRequest) -> Iterator[SourceModel | None]:
    """Give the model that the plan is to fit; None without one."""
    if request.start is None:
        yield None
        return
    with opened_start(request.start) as model:
        yield model


def _decide(
    source: str,
    workspace: Path,
    request: PlanRequest,
    budget: Budget,
    model: SourceModel | None,
) -> tuple[PlanResult, Dataset | None]:
    """Return what `plan` makes, and a second data set where there is one; write nothing."""
    from selfseg.fingerprinting.extract import inspect
    from selfseg.io.formats import read_dataset

    workers = default_workers(request.workers)
    root = data_root(source, workspace)
    described = read_dataset(root, only=read_case_list(request.cases))
    folder = dataset_folder(workspace, described.name)
    refuse_namesake(folder, root)
    if not Path(source).is_dir():
        refuse_less(folder, described, request)
    dataset, fingerprint = inspect(described, workers=workers, known=_known_facts(folder))
    made = planning.make_plan(dataset, fingerprint, budget, planner=request.planner)
    if model is not None and request.start is not None:
        start = pinned(planned_as(request.start, model.configuration.name, workspace), model)
        made = _fit_to_model(made, model, start, dataset, fingerprint, request)
    auxiliary = _read_auxiliary(request, workspace, workers=workers)
    if auxiliary is not None:
        made = borrow(made, dataset, auxiliary, planner=request.planner)
    plan = edit_plan(made, request.settings)
    given = "Give other values with --set; nothing was written."
    check_plan(plan, remedy=given if request.settings else MEND_PLAN)
    plan = planning.update_memory(plan, made, planner=request.planner)
    splits = _splits(folder, dataset, fingerprint, request)
    result = PlanResult(
        folder=folder, dataset=dataset, fingerprint=fingerprint, plan=plan, splits=splits
    )
    return result, auxiliary


def _write(result: PlanResult, auxiliary: Dataset | None) -> None:
    """Write all records, the plan last; former plans and folds are kept.

    Raises:
        SelfSegError: A fold is being trained that would not fit the plan; nothing is written then.
    """
    folder = result.folder
    with waited_for(folder.plan_lock, "changes the plan"):
        state = PlannedState(result.plan, result.dataset, result.splits, auxiliary)
        outdated = newly_outdated(folder, state)
        refuse_while_training(folder, outdated)
        gone = _known_cases(folder) - {case.id for case in result.dataset.cases}
        _forget_facts_of_others(folder, result.dataset)
        serial.save(result.dataset, folder.dataset)
        serial.save(result.fingerprint, folder.fingerprint)
        kept = {folder.splits: serial.save_keeping_former(result.splits, folder.splits)}
        if auxiliary is not None:
            serial.save(auxiliary, folder.auxiliary)
        _tell_of_races(result)
        kept[folder.plan] = serial.save_keeping_former(result.plan, folder.plan)
        tell_of_outdated(outdated, {} if gone else kept)


def _known_cases(folder: DatasetFolder) -> set[str]:
    try:
        return {case.id for case in serial.load(Dataset, folder.dataset).cases}
    except RecordError:
        return set()


def _tell_of_races(result: PlanResult) -> None:
    """Warn if a plan is replaced that had what races found, since a plan is made anew."""
    try:
        former = serial.load(Plan, result.folder.plan)
    except RecordError:
        return
    kept = {(idea.configuration, idea.name) for idea in result.plan.nominated if idea.trials}
    raced = {(idea.configuration, idea.name) for idea in former.nominated if idea.trials} - kept
    if raced:
        log.warning(
            "The plan is made anew, without what races found (%s). The same 'selfseg race' "
            "commands write it again; a finished race is not trained again.",
            ", ".join(f"{name} of {configuration}" for configuration, name in sorted(raced)),
        )


def _forget_facts_of_others(folder: DatasetFolder, dataset: Dataset) -> None:
    """Delete facts of other cases or files: arrays must not be taken to be made for these."""
    if folder.dataset.is_file() and folder.dataset.read_text("utf-8") == serial.text(dataset):
        return
    folder.fingerprint.unlink(missing_ok=True)


def _fit_to_model(
    plan: Plan,
    model: SourceModel,
    start: Start,
    dataset: Dataset,
    fingerprint: Fingerprint,
    request: PlanRequest,
) -> Plan:
    """Return a plan that fits a model to start from, with what a trial of the model says."""
    made = adopt_model(plan, model.facts, planner=request.planner)
    verdict = judge_model(
        model, start, dataset, fingerprint, planner=request.planner, device=request.device
    )
    return with_verdict(made, start, verdict)


def _read_auxiliary(request: PlanRequest, workspace: Path, *, workers: int) -> Dataset | None:
    """Read and check the second data set that training borrows from; None without one."""
    from selfseg.fingerprinting.extract import inspect
    from selfseg.io.formats import read_dataset

    if request.auxiliary is None:
        return None
    described = read_dataset(data_root(request.auxiliary, workspace))
    known = _known_facts(dataset_folder(workspace, described.name))
    return inspect(described, workers=workers, known=known)[0]


def data_root(source: str, workspace: Path) -> Path:
    """Return the folder of a data set that is given by folder or name.

    Raises:
        SelfSegError: It is neither.
    """
    if Path(source).is_dir():
        return Path(source)
    known = dataset_folder(workspace, source).dataset
    if known.is_file():
        return Path(serial.load(Dataset, known).root)
    raise SelfSegError(
        f"{source}: neither a folder nor the name of a data set in workspace {workspace} "
        f"(planned there: {', '.join(planned_names(workspace)) or 'none'})",
        remedy="Give the folder that holds dataset.json.",
    )


def _known_facts(folder: DatasetFolder) -> tuple[Dataset, Fingerprint] | None:
    if not (folder.dataset.is_file() and folder.fingerprint.is_file()):
        return None
    try:
        return serial.load(Dataset, folder.dataset), serial.load(Fingerprint, folder.fingerprint)
    except RecordError as error:
        log.warning("Measuring all cases again: %s", error.message)
        return None


def _splits(
    folder: DatasetFolder, dataset: Dataset, fingerprint: Fingerprint, request: PlanRequest
) -> Splits:
    """Return the user's folds beside the data; else those stored here; else the planner's."""
    from selfseg.io.splits import find_splits, read_splits

    given = find_splits(Path(dataset.root))
    if given is not None:
        return read_splits(given, dataset, part=request.cases is not None)
    stored = _fitting_splits(folder, dataset)
    return stored or planning.make_splits(dataset, fingerprint, planner=request.planner)


def _fitting_splits(folder: DatasetFolder, dataset: Dataset) -> Splits | None:
    """Return the stored folds if they cover exactly these cases (they may be the user's own)."""
    from selfseg.io.splits import check_folds, read_stored_splits

    if not folder.splits.is_file():
        return None
    splits = read_stored_splits(folder.splits)
    covered = {case for fold in splits.folds for case in (*fold.train, *fold.validation)}
    if covered == {case.id for case in dataset.cases}:
        check_folds(splits.folds, dataset, folder.splits)
        return splits
    log.warning("The cases have changed: new folds are made. Models of old folds do not compare.")
    return None
