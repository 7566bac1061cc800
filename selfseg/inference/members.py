"""Predict with an ensemble of configurations: members one after the other, probabilities summed.

Every member has its own spacing, patch and network. What they share is the image's own grid: there
the probabilities of one case are summed tile by tile, while the next member computes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from selfseg.inference.cascade import StageMaps, previous_stages
from selfseg.inference.case_pipeline import IN_FLIGHT, run_pipeline
from selfseg.inference.export import Export
from selfseg.inference.journal import Journal
from selfseg.inference.logit_store import LogitStore
from selfseg.inference.model import Ensemble, Model
from selfseg.inference.predictor import (
    PredictionReport,
    divide_memory,
    inference_options,
    member_logits,
    predict_cases,
    read_case,
)
from selfseg.inference.probability_sum import ProbabilitySum
from selfseg.inference.quality import QualityMeter
from selfseg.preprocessing.case import PreparedCase
from selfseg.progress import ProgressBar
from selfseg.records.dataset import Case
from selfseg.records.geometry import PreprocessedCase

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Turn:
    """One case, to be predicted by one member."""

    case: Case
    member: Model
    is_first: bool
    is_last: bool


def predict_ensemble(  # noqa: PLR0913 (the options of the command)
    ensemble: Ensemble,
    cases: Sequence[Case],
    output: Path,
    *,
    tta: bool = True,
    step: float | None = None,
    max_memory_gib: float | None = None,
    probabilities: bool = False,
    workers: int = 1,
    journal: Journal | None = None,
) -> PredictionReport:
    """Segment cases and write a label map for each; the arguments are those of `predict_cases`.

    One member is predicted as always. Several: the mean of their probabilities on the image's own
    grid decides; a case for which one member fails has failed. Where a member is a cascade, its
    previous stage goes over all cases first. A CRF refines the probabilities before they decide.
    With shape models, `quality.json` is written as well, unless there is a journal, which does
    that (`Journal.save_quality`).
    """
    meter = QualityMeter(
        tuple(shape for member in ensemble.members for shape in member.shapes),
        ensemble.members[0].plan.targets,
    )
    with previous_stages(
        ensemble.members,
        cases,
        output,
        tta=tta,
        step=step,
        max_memory_gib=max_memory_gib,
        workers=workers,
        journal=journal,
    ) as maps:
        left = [case for case in cases if case.id not in maps.failed]
        if len(ensemble.members) == 1:
            report = predict_cases(
                ensemble.members[0],
                left,
                output,
                tta=tta,
                step=step,
                max_memory_gib=max_memory_gib,
                probabilities=probabilities,
                workers=workers,
                previous=maps.of(ensemble.members[0]),
                crf=ensemble.crf,
                steps=ensemble.steps,
                quality=meter,
                journal=journal,
            )
        else:
            budget = divide_memory(
                ensemble.members, left, max_memory_gib, probabilities=probabilities
            )
            store = LogitStore(budget, folder=output)
            export = Export(
                ensemble.members[0],
                output,
                store,
                probabilities,
                ensemble.crf,
                ensemble.steps,
                quality=meter,
            )
            report = _predict_several(
                ensemble, left, export, maps, journal, tta=tta, step=step, workers=workers
            )
    if journal is None:
        meter.save(output)
    failed = (*maps.failed.items(), *report.failed)
    return PredictionReport(report.done, failed, tuple(meter.cases))


def _predict_several(  # noqa: PLR0913 (the options of the command)
    ensemble: Ensemble,
    cases: Sequence[Case],
    export: Export,
    maps: StageMaps,
    journal: Journal | None,
    *,
    tta: bool,
    step: float | None,
    workers: int,
) -> PredictionReport:
    export.folder.mkdir(parents=True, exist_ok=True)
    adder = _Adder(export, journal, share=1 / len(ensemble.members))

    def prepare(turn: Turn) -> PreparedCase:
        export.check(turn.case)
        if turn.is_first and journal is not None:
            journal.begin(turn.case)
        made = maps.of(turn.member)
        return read_case(turn.member, turn.case, None if made is None else made[turn.case.id])

    def compute(turn: Turn, prepared: PreparedCase) -> Tensor:
        options = inference_options(turn.member, tta=tta, step=step)
        return member_logits(turn.member, prepared, options, export.store)

    problems: dict[str, str] = {}
    turns = _turns(cases, ensemble.members)
    with ProgressBar("predicting", len(turns)) as bar:
        threads = max(1, min(workers, IN_FLIGHT))
        for outcome in run_pipeline(
            turns, prepare, compute, adder.write, threads, overlap=export.store.budget.overlaps
        ):
            turn = outcome.item
            bar.advance(note=f"{turn.case.id} {turn.member.configuration.name}")
            if outcome.problem is not None and turn.case.id not in problems:
                log.warning("%s: %s", turn.case.id, outcome.problem)
                problems[turn.case.id] = str(outcome.problem)
    done = tuple(case.id for case in cases if case.id not in problems)
    return PredictionReport(done, tuple(problems.items()))


def _turns(cases: Sequence[Case], members: Sequence[Model]) -> list[Turn]:
    last = len(members) - 1
    return [
        Turn(case, member, is_first=index == 0, is_last=index == last)
        for case in cases
        for index, member in enumerate(members)
    ]


@dataclass
class _Adder:
    """Adds the members' probabilities of one case after another; the last one writes the files.

    Turns come in order and one at a time. A turn that failed before it came here leaves a case
    incomplete; that case is dropped.
    """

    export: Export
    journal: Journal | None
    share: float
    _case: str = ""
    _added: int = 0
    _sum: ProbabilitySum | None = field(default=None, repr=False)

    def write(self, turn: Turn, record: PreprocessedCase, logits: Tensor) -> None:
        """Add the logits of one turn."""
        if turn.is_first:
            targets = turn.member.plan.targets
            self._case, self._added = turn.case.id, 0
            self._sum = None  # its memory is free before the next one is taken
            self._sum = ProbabilitySum(targets, record, self.export.store)
        total = self._sum
        if total is None or self._case != turn.case.id:
            return
        try:
            resampling = turn.member.configuration.preprocessing.resampling
            total.add(logits, record, resampling, share=self.share)
            self._added += 1
            if turn.is_last and self._added == round(1 / self.share):
                self.export.write_sum(turn.case, record, total)
                if self.journal is not None:  # at once: what comes next may be interrupted
                    meter = self.export.quality
                    self.journal.finish(turn.case, None if meter is None else meter.of(turn.case))
        except BaseException:
            self._sum = None
            raise
        if turn.is_last:
            self._sum = None
