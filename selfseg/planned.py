"""A plan that is there already: looked at by its name, and not replaced by one of less."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote

from selfseg.errors import PlanError, RecordError
from selfseg.records import serial
from selfseg.records.dataset import Dataset, Splits
from selfseg.records.fingerprint import Fingerprint
from selfseg.records.plan import Plan
from selfseg.requests import PlanRequest
from selfseg.workspace.dataset import DatasetFolder
from selfseg.workspace.lookup import dataset_folder


@dataclass(frozen=True, kw_only=True)
class PlanResult:
    """What `plan` made, and where."""

    folder: DatasetFolder
    dataset: Dataset
    fingerprint: Fingerprint
    plan: Plan
    splits: Splits


def shown_plan(source: str, workspace: Path, request: PlanRequest) -> Plan | None:
    """Return the plan that is there, if it is asked for by name and nothing else is.

    Args:
        source: As for `plan`.
        workspace: Root of the workspace.
        request: Options; those that say how to work do not count.
    """
    is_bare = replace(request, workers=None, preprocess=True, device="auto") == PlanRequest()
    folder = dataset_folder(workspace, source)
    if not is_bare or Path(source).is_dir() or not folder.plan.is_file():
        return None
    return serial.load(Plan, folder.plan)


def refuse_less(folder: DatasetFolder, found: Dataset, request: PlanRequest) -> None:
    """Refuse to plan by name without options that the plan there was made with.

    Args:
        folder: Of the planned data set.
        found: Its data as they are now.
        request: Options.

    Raises:
        PlanError: Names these options, and both ways on.
    """
    try:
        plan, known = serial.load(Plan, folder.plan), serial.load(Dataset, folder.dataset)
    except RecordError:
        return
    now, then = {case.id for case in found.cases}, {case.id for case in known.cases}
    lost = []
    if request.cases is None and then < now:
        lost.append(f"for {len(then)} of the {len(now)} cases that are there now (--cases)")
    if request.start is None and plan.init is not None:
        lost.append(f"to start from {plan.init.title} (--init)")
    if request.auxiliary is None and plan.auxiliary is not None:
        lost.append(f"with the data of {plan.auxiliary.name} (--auxiliary)")
    given = [f"{item.subject}={item.value}" for item in plan.decisions if item.rule == "user"]
    if given and not request.settings:
        lost.append(f"with {', '.join(given)} (--set)")
    if lost:
        name, root = quote(plan.dataset), quote(known.root)
        raise PlanError(
            f"{folder.plan}: was made {' and '.join(lost)}",
            remedy="Give these options again (--cases FILE, …), or plan anew without them, for all "
            f"cases that are there: 'selfseg plan {root}'. To see what is planned: 'selfseg plan "
            f"{name} --explain'.",
        )
