"""Borrowing from a second data set: what it must have in common, and who decides how."""

from __future__ import annotations

import logging
from typing import Protocol, runtime_checkable

from selfseg.errors import PlanError
from selfseg.planning import find_planner
from selfseg.records.dataset import Dataset
from selfseg.records.plan import Plan
from selfseg.words import counted

log = logging.getLogger(__name__)


@runtime_checkable
class Borrower(Protocol):
    """What a planner may offer as well: how a second data set takes part in training."""

    def borrow(self, plan: Plan, dataset: Dataset, auxiliary: Dataset) -> Plan:
        """Return the plan with the second data set and the reasons."""
        ...


def borrow(plan: Plan, dataset: Dataset, auxiliary: Dataset, *, planner: str = "default") -> Plan:
    """Let a planner decide how a second data set takes part; the default one if it has no rule.

    Raises:
        PlanError: The two data sets have no label in common, other channels, or the same images.
    """
    complaints = []
    if len(dataset.channels) != len(auxiliary.channels):
        complaints.append(
            f"{counted(len(auxiliary.channels), 'channel')} ({', '.join(auxiliary.channels)}), not "
            f"{len(dataset.channels)} ({', '.join(dataset.channels)})"
        )
    elif others := _other_channels(dataset, auxiliary):
        if sorted(map(str.casefold, dataset.channels)) == sorted(
            map(str.casefold, auxiliary.channels)
        ):
            complaints.append(f"its channels stand in another order ({others})")
        else:
            log.warning("--auxiliary %s: %s is taken for granted", auxiliary.name, others)
    if not any(dataset.targets.named(label.name) for label in auxiliary.labels):
        names = ", ".join(label.name for label in auxiliary.labels)
        complaints.append(f"no label of the same name ({names})")
    if dataset.root == auxiliary.root:
        complaints.append("it is the data set itself")
    elif common := _common_images(dataset, auxiliary):
        shown = ", ".join(common[:3]) + (f" and {len(common) - 3} more" * (len(common) > 3))
        complaints.append(
            f"it holds images of {dataset.name} ({shown}), which would be trained on where a fold "
            "holds them out"
        )
    if complaints:
        raise PlanError(
            f"--auxiliary {auxiliary.name}: {'; '.join(complaints)}",
            remedy="Give a data set with the same channels in the same order, at least one label "
            "of the same name, and other images; nothing was written.",
        )
    found = find_planner(planner)
    if not isinstance(found, Borrower):
        found = find_planner("default")
    assert isinstance(found, Borrower)
    return found.borrow(plan, dataset, auxiliary)


def _other_channels(dataset: Dataset, auxiliary: Dataset) -> str:
    """Return which channels stand at the place of ones with other names; '' if none do."""
    pairs = zip(auxiliary.channels, dataset.channels, strict=True)
    return ", ".join(f"{a} as {b}" for a, b in pairs if a.casefold() != b.casefold())


def _common_images(dataset: Dataset, auxiliary: Dataset) -> list[str]:
    """Return the auxiliary cases whose image files are those of a primary case."""
    own = {file.digest for case in dataset.cases for file in case.images if file.digest}
    return [case.id for case in auxiliary.cases if any(file.digest in own for file in case.images)]
