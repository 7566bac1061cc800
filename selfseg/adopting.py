"""Make a plan fit a model to start from, or say why none does."""

from __future__ import annotations

import logging
from functools import reduce
from statistics import median
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from selfseg.errors import PlanError
from selfseg.planning import find_planner
from selfseg.records.dataset import Dataset
from selfseg.records.fingerprint import Fingerprint
from selfseg.records.plan import Plan
from selfseg.records.preprocessing import Preprocessing
from selfseg.records.serial import Triple
from selfseg.records.source import Adoption, SourceFacts, StartVerdict, TransferFacts
from selfseg.records.transfer import Start

if TYPE_CHECKING:
    from selfseg.training.transfer import SourceModel

log = logging.getLogger(__name__)


@runtime_checkable
class Adopter(Protocol):
    """What a planner may offer as well: plans that fit a model to start from."""

    def adopt(self, plan: Plan, source: SourceFacts) -> Adoption:
        """Decide a configuration that fits a model, or tell why there is none."""
        ...

    def probed_cases(self, dataset: Dataset) -> tuple[str, ...]:
        """Decide which training cases a model is tried on, by id."""
        ...

    def nominate_start(
        self, source: SourceFacts, facts: TransferFacts, start: Start
    ) -> StartVerdict:
        """Decide whether a model is worth starting from, and whether a race should try it."""
        ...


def find_adopter(name: str = "default") -> Adopter:
    """Return the rules of a planner for fitting a model; the default planner's if it has none."""
    planner = find_planner(name)
    if isinstance(planner, Adopter):
        return planner
    default = find_planner("default")
    assert isinstance(default, Adopter)
    return default


def adopt_model(plan: Plan, model: SourceFacts, *, planner: str = "default") -> Plan:
    """Return a plan whose configuration of a model's name fits the model, and comes first.

    Raises:
        PlanError: There can be none; says why.
    """
    adoption = find_adopter(planner).adopt(plan, model)
    made = adoption.configuration
    if made is None:
        raise PlanError(
            f"no plan for {plan.dataset} fits {model.model.title}: {'; '.join(adoption.refusals)}",
            remedy="Choose another model or configuration of it (--init-config), or plan without "
            "--init; 'selfseg train --init' then takes what fits.",
        )
    rest = (name for name in plan.proposed if name != made.name)
    changed = plan.with_configuration(made).model_copy(update={"proposed": (made.name, *rest)})
    return reduce(Plan.superseded_by, adoption.decisions, changed)


def with_verdict(plan: Plan, start: Start, verdict: StartVerdict) -> Plan:
    """Return a plan with what was found of the model it fits: decision, idea, start."""
    changes = {
        "init": start,
        "decisions": (verdict.decision, *plan.decisions),
        "nominated": (*([] if verdict.idea is None else [verdict.idea]), *plan.nominated),
    }
    if verdict.is_used:
        changes["configurations"] = tuple(
            item.model_copy(update={"start": start}) if item.name == start.configuration else item
            for item in plan.configurations
        )
    return plan.model_copy(update=changes)


def judge_model(
    source: SourceModel,
    start: Start,
    dataset: Dataset,
    fingerprint: Fingerprint,
    *,
    planner: str,
    device: str,
) -> StartVerdict:
    """Try a model on some training cases, and return what the planner makes of that.

    Args:
        source: The model.
        start: How trainings would ask for it.
        dataset: The data.
        fingerprint: Of the data.
        planner: Who judges.
        device: Where to predict.
    """
    from selfseg.networks.device import select_device
    from selfseg.training.probe import probe

    adopter = find_adopter(planner)
    unseen = _unseen(source, dataset)
    facts = probe(
        source,
        dataset,
        adopter.probed_cases(unseen),
        spacing_ratios=_spacing_ratios(fingerprint, source.configuration.preprocessing),
        device=select_device(device),
        seen_cases=len(dataset.cases) - len(unseen.cases),
    )
    verdict = adopter.nominate_start(source.facts, facts, start)
    level = logging.INFO if verdict.is_used else logging.WARNING
    log.log(level, "Start %s, because %s", verdict.decision.value, verdict.decision.because)
    return verdict


def _unseen(source: SourceModel, dataset: Dataset) -> Dataset:
    """Return a data set without cases and patients whom a model knows by heart."""
    touched = source.touched_cases(dataset)
    cases = tuple(case for case in dataset.cases if case.id not in touched)
    return dataset.model_copy(update={"cases": cases})


def _spacing_ratios(fingerprint: Fingerprint, options: Preprocessing) -> Triple:
    """Return the median voxel size over the model's, in the model's order of axes."""
    ratios = [
        1.0
        if spacing is None
        else median(case.spacing_mm[axis] for case in fingerprint.cases) / spacing
        for axis, spacing in zip(options.axes, options.spacing_mm, strict=True)
    ]
    return (ratios[0], ratios[1], ratios[2])
