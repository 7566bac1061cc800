"""Borrowing from a second data set: what it must have in common, and who decides how."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from selfseg.errors import PlanError
from selfseg.planning import find_planner
from selfseg.records.dataset import Dataset
from selfseg.records.plan import Plan


@runtime_checkable
class Borrower(Protocol):
    """What a planner may offer as well: how a second data set takes part in training."""

    def borrow(self, plan: Plan, dataset: Dataset, auxiliary: Dataset) -> Plan:
        """Return the plan with the second data set and the reasons."""
        ...


def borrow(plan: Plan, dataset: Dataset, auxiliary: Dataset, *, planner: str = "default") -> Plan:
    """Let a planner decide how a second data set takes part; the default one if it has no rule.

    Raises:
        PlanError: The two data sets have nothing in common, or other channels.
    """
    complaints = []
    if len(dataset.channels) != len(auxiliary.channels):
        complaints.append(
            f"{len(auxiliary.channels)} channels ({', '.join(auxiliary.channels)}), not "
            f"{len(dataset.channels)} ({', '.join(dataset.channels)})"
        )
    if not {label.name for label in dataset.labels} & {label.name for label in auxiliary.labels}:
        names = ", ".join(label.name for label in auxiliary.labels)
        complaints.append(f"no label of the same name ({names})")
    if dataset.root == auxiliary.root:
        complaints.append("it is the data set itself")
    if complaints:
        raise PlanError(
            f"--auxiliary {auxiliary.name}: {'; '.join(complaints)}",
            remedy="Give a data set with the same channels in the same order and at least one "
            "label of the same name; nothing was written.",
        )
    found = find_planner(planner)
    if not isinstance(found, Borrower):
        found = find_planner("default")
    assert isinstance(found, Borrower)
    return found.borrow(plan, dataset, auxiliary)
