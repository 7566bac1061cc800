"""Tune the dense CRF on out-of-fold probabilities, and judge it on folds it was not tuned on.

A seeded random part of the grid is tried progressively: all of it on a few cases, the best quarter
on three times as many, and so on until all cases have a part. Scores of an option on a case are
computed once, however many folds ask for them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from selfseg.evaluation.overlap import overlaps
from selfseg.evaluation.surface import normalized_surface_dice, surface_distances
from selfseg.execution.processes import map_parallel
from selfseg.postprocessing.crf import Method, refine
from selfseg.records.crf import CrfGrid, DenseCrf

TOLERANCE_MM = 2.0
FIRST_CASES = 3
MORE_CASES = 3  # times as many in each round
KEPT = 0.25  # of the options, from one round to the next

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Volumes:
    """What a case is tuned with, all on one grid D, which is (Z, Y, X) or (Y, X).

    Attributes:
        probabilities: (C, *D), out of fold, background first.
        image: (channels, *D), normalized as the plan says.
        reference: (*D) label indices.
        spacing_mm: Voxel size along each axis of D.
        known: (*D) where there is annotation; None: everywhere.
    """

    probabilities: Tensor
    image: Tensor
    reference: npt.NDArray[np.integer]
    spacing_mm: tuple[float, ...]
    known: npt.NDArray[np.bool_] | None = None


class TuningCase(Protocol):
    """A held-out case that is read when its turn comes, maybe in another process."""

    @property
    def id(self) -> str:
        """Which case."""
        ...

    @property
    def fold(self) -> str:
        """The fold that held it out."""
        ...

    def read(self) -> Volumes:
        """Return its volumes."""
        ...


@dataclass(frozen=True)
class FoldChoice:
    """Options tuned on all folds but one, and the mean score of that fold without and with them."""

    fold: str
    options: DenseCrf
    before: float
    after: float


def tune(
    cases: Sequence[TuningCase], grid: CrfGrid, *, method: Method = "window", workers: int = 1
) -> tuple[DenseCrf, float]:
    """Return the options with the highest mean of Dice and NSD at 2 mm, and this score.

    The score is the mean over labels of the mean over cases, on the very cases that the options
    were tuned on, so it is optimistic: `tune_folds` judges.

    Raises:
        ValueError: There are no cases.
    """
    table = _Table(cases, draw_options(grid), method, workers)
    best = _best(table, tuple(range(len(cases))), grid.seed)
    return table.options[best], table.mean(best, range(len(cases)))


def tune_folds(
    cases: Sequence[TuningCase], grid: CrfGrid, *, method: Method = "window", workers: int = 1
) -> tuple[FoldChoice, ...]:
    """Return for each fold the options tuned on all others, judged on the cases it held out.

    Raises:
        ValueError: There are fewer than two folds.
    """
    folds = sorted({case.fold for case in cases})
    if len(folds) < 2:
        raise ValueError(f"tuning by folds needs two folds or more, not {folds}")
    table = _Table(cases, draw_options(grid), method, workers)
    choices = []
    for fold in folds:
        tuned = tuple(i for i, case in enumerate(cases) if case.fold != fold)
        judged = tuple(i for i, case in enumerate(cases) if case.fold == fold)
        best = _best(table, tuned, grid.seed)
        before, after = table.mean(None, judged), table.mean(best, judged)
        choices.append(FoldChoice(fold, table.options[best], before, after))
    return tuple(choices)


def draw_options(grid: CrfGrid) -> tuple[DenseCrf, ...]:
    """Return `grid.draws` different combinations of the grid, or all if there are no more."""
    axes = (
        grid.w_appearance,
        grid.theta_space_mm,
        grid.theta_intensity,
        grid.w_smooth,
        grid.theta_smooth_mm,
    )
    shape = (*(len(axis) for axis in axes), len(grid.iterations))
    count = math.prod(shape)
    places = np.random.default_rng(grid.seed).permutation(count)[: grid.draws]
    options = []
    for *index, last in zip(*np.unravel_index(places, shape), strict=True):
        values = [axis[int(place)] for axis, place in zip(axes, index, strict=True)]
        options.append(
            DenseCrf(
                w_appearance=values[0],
                theta_space_mm=values[1],
                theta_intensity=values[2],
                w_smooth=values[3],
                theta_smooth_mm=values[4],
                iterations=grid.iterations[int(last)],
            )
        )
    return tuple(options)


def label_scores(probabilities: Tensor, volumes: Volumes) -> Floats:
    """Return the mean of Dice and NSD at 2 mm of each label (C − 1); NaN where neither has it."""
    predicted = probabilities.argmax(0).cpu().numpy()
    labels = range(1, len(probabilities))
    reference, known, spacing = volumes.reference, volumes.known, volumes.spacing_mm
    if predicted.ndim == 2:  # surfaces are measured in volumes; one slice is measured in its plane
        predicted, reference = predicted[None], reference[None]
        known = None if known is None else known[None]
    z, y, x = spacing if len(spacing) == 3 else (1.0, *spacing)
    seen = slice(None) if known is None else known
    counts = overlaps(predicted[seen], reference[seen], [(label,) for label in labels])
    scores = []
    for label, count in zip(labels, counts, strict=True):
        if count.dice is None:
            scores.append(math.nan)
            continue
        distances = surface_distances(predicted == label, reference == label, (z, y, x), known)
        surface = normalized_surface_dice(distances, TOLERANCE_MM)
        scores.append(count.dice if surface is None else (count.dice + surface) / 2)
    return np.array(scores, np.float64)


class _Table:
    """Scores of options on cases, computed when they are asked for. Option None is: no CRF."""

    def __init__(
        self,
        cases: Sequence[TuningCase],
        options: tuple[DenseCrf, ...],
        method: Method,
        workers: int,
    ) -> None:
        if not cases:
            raise ValueError("tuning needs cases")
        self.cases, self.options, self.method, self.workers = cases, options, method, workers
        self.known: dict[tuple[int | None, int], Floats] = {}

    def mean(self, option: int | None, cases: Sequence[int]) -> float:
        """Return the mean over labels of the mean over cases; −inf if there is nothing to score."""
        self.fill([option], cases)
        scores = np.stack([self.known[option, case] for case in cases])
        defined = ~np.isnan(scores)
        some = defined.any(0)
        if not some.any():
            return -math.inf
        sums = np.where(defined, scores, 0).sum(0)
        return float((sums[some] / defined.sum(0)[some]).mean())

    def fill(self, options: Sequence[int | None], cases: Sequence[int]) -> None:
        """Compute what is missing, each case in one piece, so that it is read once."""
        missing = [(c, [o for o in options if (o, c) not in self.known]) for c in cases]
        missing = [(case, lacking) for case, lacking in missing if lacking]
        jobs = [
            _Job(
                self.cases[case].id,
                self.cases[case],
                tuple(None if o is None else self.options[o] for o in lacking),
                self.method,
            )
            for case, lacking in missing
        ]
        found = map_parallel(_score, jobs, workers=self.workers, label="Dense CRF") if jobs else []
        for (case, lacking), scores in zip(missing, found, strict=True):
            self.known.update(
                {(option, case): row for option, row in zip(lacking, scores, strict=True)}
            )


@dataclass(frozen=True)
class _Job:
    """One case, and the options that it lacks."""

    id: str
    case: TuningCase
    options: tuple[DenseCrf | None, ...]
    method: Method


def _score(job: _Job) -> list[Floats]:
    volumes = job.case.read()
    return [
        label_scores(
            volumes.probabilities
            if options is None
            else refine(
                volumes.probabilities,
                volumes.image,
                volumes.spacing_mm,
                options,
                method=job.method,
            ),
            volumes,
        )
        for options in job.options
    ]


def _best(table: _Table, cases: tuple[int, ...], seed: int) -> int:
    """Return the best option on some cases: fewer options and more cases in each round."""
    order = [cases[place] for place in np.random.default_rng(seed).permutation(len(cases))]
    left, size = list(range(len(table.options))), FIRST_CASES
    while True:
        used = order[:size]
        table.fill(left, used)
        # Stable: of equals the one that was drawn first.
        left.sort(key=lambda option: -table.mean(option, used))
        if len(used) == len(order):
            return left[0]
        left = sorted(left[: max(2, math.ceil(KEPT * len(left)))])
        size *= MORE_CASES
