"""Tune the dense CRF on out-of-fold probabilities, on all folds and on all but each one.

A seeded random part of the grid is tried progressively: all of it on a few cases, the best part
of it on more, and so on until all cases have a part. Scores of an option on a case are
computed once, however many folds ask for them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from selfseg.evaluation.overlap import overlaps
from selfseg.evaluation.surface import normalized_surface_dice, surface_distances
from selfseg.execution.processes import map_parallel
from selfseg.postprocessing.crf import Method, refine_foreground
from selfseg.records.crf import CrfGrid, DenseCrf
from selfseg.records.dataset import Targets

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Volumes:
    """What a case is tuned with, all on one grid D, which is (Z, Y, X) or (Y, X).

    Attributes:
        foreground: (c, *D) probabilities, out of fold, in the order of `targets.names`.
        image: (channels, *D), normalized as the plan says.
        reference: (*D) label indices.
        spacing_mm: Voxel size along each axis of D.
        targets: What the probabilities mean.
        known: (*D) where there is annotation; None: everywhere.
    """

    foreground: Tensor
    image: Tensor
    reference: npt.NDArray[np.integer]
    spacing_mm: tuple[float, ...]
    targets: Targets
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
    """Options tuned on all folds but one, None if none of them helps there.

    Attributes:
        fold: The one that had no part.
        options: Tuned on the others.
        before, after: Mean score of the fold without and with them.
    """

    fold: str
    options: DenseCrf | None
    before: float
    after: float


@dataclass(frozen=True)
class Tuning:
    """Options tuned on all cases, None if none of them helps, and what each fold would have got."""

    options: DenseCrf | None
    folds: tuple[FoldChoice, ...]


def tune(
    cases: Sequence[TuningCase], grid: CrfGrid, *, method: Method = "window", workers: int = 1
) -> tuple[DenseCrf, float]:
    """Return the options with the highest mean of Dice and surface Dice, and this score.

    The score is the mean over labels of the mean over cases, on the very cases that the options
    were tuned on, so it is optimistic: `tune_folds` judges.

    Raises:
        ValueError: There are no cases.
    """
    table = _Table(cases, grid, method, workers)
    best = _best(table, tuple(range(len(cases))))
    return table.options[best], table.mean(best, range(len(cases)))


def tune_folds(
    cases: Sequence[TuningCase], grid: CrfGrid, *, method: Method = "window", workers: int = 1
) -> Tuning:
    """Return options tuned on all cases, and for each fold those tuned on all others.

    Raises:
        ValueError: There are fewer than two folds.
    """
    folds = sorted({case.fold for case in cases})
    if len(folds) < 2:
        raise ValueError(f"tuning by folds needs two folds or more, not {folds}")
    table = _Table(cases, grid, method, workers)
    choices = []
    for fold in folds:
        tuned = tuple(i for i, case in enumerate(cases) if case.fold != fold)
        judged = tuple(i for i, case in enumerate(cases) if case.fold == fold)
        best = _helpful(table, tuned)
        before, after = table.mean(None, judged), table.mean(best, judged)
        options = None if best is None else table.options[best]
        choices.append(FoldChoice(fold, options, before, after))
    best = _helpful(table, tuple(range(len(cases))))
    return Tuning(None if best is None else table.options[best], tuple(choices))


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


def label_scores(foreground: Tensor, volumes: Volumes, tolerance_mm: float) -> Floats:
    """Return the mean of Dice and surface Dice of each name of the targets.

    NaN where neither map has it. Of regions each is taken where it is more probable than not.
    """
    values, targets = foreground.cpu().numpy(), volumes.targets
    reference, known, spacing = volumes.reference, volumes.known, volumes.spacing_mm
    if values.ndim == 3:  # surfaces are measured in volumes; one slice is measured in its plane
        values, reference = values[:, None], reference[None]
        known = None if known is None else known[None]
    z, y, x = spacing if len(spacing) == 3 else (1.0, *spacing)
    seen = slice(None) if known is None else known
    scores = []
    for mask, members in zip(_masks(values, targets), targets.members, strict=True):
        truth = np.isin(reference, members)
        (count,) = overlaps(mask[seen].view(np.uint8), truth[seen].view(np.uint8), [(1,)])
        if count.dice is None:
            scores.append(math.nan)
            continue
        distances = surface_distances(mask, truth, (z, y, x), known)
        surface = normalized_surface_dice(distances, tolerance_mm)
        scores.append(count.dice if surface is None else (count.dice + surface) / 2)
    return np.array(scores, np.float64)


def _masks(values: npt.NDArray[np.floating], targets: Targets) -> Iterator[npt.NDArray[np.bool_]]:
    """Yield where each label wins, or each region is more probable than not, of (c, Z, Y, X)."""
    if targets.regions:
        yield from values > 0.5
        return
    background = 1 - values.sum(0, keepdims=True)
    winner = np.concatenate([background, values]).argmax(0)
    yield from (winner == index for index in range(1, len(values) + 1))


class _Table:
    """Scores of options on cases, computed when they are asked for. Option None is: no CRF."""

    def __init__(
        self,
        cases: Sequence[TuningCase],
        grid: CrfGrid,
        method: Method,
        workers: int,
    ) -> None:
        if not cases:
            raise ValueError("tuning needs cases")
        self.cases, self.grid, self.method, self.workers = cases, grid, method, workers
        self.options, self.tolerance_mm = draw_options(grid), grid.tolerance_mm
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
                self.tolerance_mm,
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
    tolerance_mm: float


def _score(job: _Job) -> list[Floats]:
    volumes = job.case.read()
    return [
        label_scores(
            volumes.foreground
            if options is None
            else refine_foreground(
                volumes.foreground,
                volumes.image,
                volumes.spacing_mm,
                options,
                exclusive=not volumes.targets.regions,
                method=job.method,
            ),
            volumes,
            job.tolerance_mm,
        )
        for options in job.options
    ]


def _helpful(table: _Table, cases: tuple[int, ...]) -> int | None:
    """Return the best option on some cases; None if it is not better there than no CRF."""
    best = _best(table, cases)
    return best if table.mean(best, cases) > table.mean(None, cases) else None


def _best(table: _Table, cases: tuple[int, ...]) -> int:
    """Return the best option on some cases: fewer options and more cases in each round."""
    # One order for all: so folds, which have most cases in common, ask for the same scores.
    grid, every = table.grid, len(table.cases)
    order = [c for c in np.random.default_rng(grid.seed).permutation(every) if c in cases]
    left, size = list(range(len(table.options))), grid.first_cases
    while True:
        used = [int(case) for case in order[:size]]
        table.fill(left, used)
        # Stable: of equals the one that was drawn first.
        left.sort(key=lambda option: -table.mean(option, used))
        if len(used) == len(order):
            return left[0]
        left = sorted(left[: max(2, math.ceil(grid.kept_share * len(left)))])
        size *= grid.more_cases
