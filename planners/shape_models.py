"""Compact shapes: which predictions are scored, where a race tries what knows of their shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from selfseg.records.ideas import Idea
from selfseg.records.loss_terms import ShapeCodeTerm
from selfseg.records.plan import Configuration, Decision
from selfseg.records.shape_model import ShapeOptions

from .label_shapes import LabelShape, Shapes, network_spacing_mm
from .shapes import is_compact

# A prior of shape pays while there are few cases to learn it from.
CONSTRAINT_CASES = 60
# Share of the cases whose whole organ must fit the patch.
IN_VIEW = 0.95
# Linear models take seconds; an autoencoder takes a GPU minutes and a CPU hours. Of so many
# training cases the models of all folds are linear.
LINEAR_CASES = 10
# Chance of a hidden part, where that is an idea (measured: docs/benchmarks.md).
HIDDEN_P = 0.7
CPU_GRID, CUDA_GRID = 32, 64
CPU_ITERATIONS, CUDA_ITERATIONS = 300, 30_000


def decide_shape_models(
    shapes: Shapes, configurations: Sequence[Configuration], device: Literal["cpu", "cuda"]
) -> tuple[ShapeOptions, tuple[Decision, ...]]:
    """Score predicted shapes of compact labels where a model of them costs seconds.

    Args:
        shapes: Of the labels.
        configurations: As planned; only networks of three axes see a whole shape.
        device: That the plan is for.
    """
    is_cpu = device == "cpu"
    options = ShapeOptions(
        grid=CPU_GRID if is_cpu else CUDA_GRID,
        iterations=CPU_ITERATIONS if is_cpu else CUDA_ITERATIONS,
        linear_cases=LINEAR_CASES,
    )
    compact = _compact(shapes)
    if not compact or not any(_is_volume(item) for item in configurations):
        return options, ()
    names = tuple(item.name for item in compact)
    verdicts = [f"{item.name} is compact: {is_compact(item.shape).because}" for item in compact]
    if shapes.cases <= LINEAR_CASES:
        value, cost = ", ".join(names), "a linear model of so few takes seconds"
        options = options.model_copy(update={"labels": names})
    else:
        value, cost = "none", "an autoencoder of so many takes minutes on a GPU, hours on a CPU"
    decision = Decision(
        rule="shape_score",
        subject="shapes.labels",
        value=value,
        because=f"{'; '.join(verdicts)}; {shapes.cases} cases (linear up to {LINEAR_CASES}): "
        f"{cost}",
        alternatives=("none",) if options.labels else (", ".join(names),),
    )
    return options, (decision,)


def nominate_shape_code(configuration: Configuration, shapes: Shapes) -> Idea | None:
    """Suggest the shape constraint for compact labels that a patch shows as a whole."""
    if not _is_volume(configuration) or shapes.cases > CONSTRAINT_CASES:
        return None
    shares = {item.name: _in_view(item, configuration) for item in _compact(shapes)}
    names = tuple(name for name, share in shares.items() if share >= IN_VIEW)
    if not names:
        return None
    views = [f"{name}: compact, whole in a patch in {shares[name]:.0%}" for name in names]
    return Idea(
        name="shape_code",
        configuration=configuration.name,
        terms=(ShapeCodeTerm(labels=names),),
        labels=names,
        because=f"{'; '.join(views)} of the cases (asked: {IN_VIEW:.0%}); {shapes.cases} cases "
        f"(at most {CONSTRAINT_CASES})",
    )


def nominate_hidden_parts(configuration: Configuration, shapes: Shapes) -> Idea | None:
    """Suggest hiding parts of what is seen of compact labels, so that a network completes them.

    What lies behind shadows, veils and artifacts is then learned from all places of all cases, not
    only from those where it happened to be hidden.
    """
    idea = nominate_shape_code(configuration, shapes)
    if idea is None:
        return None
    return Idea(
        name="hidden_parts",
        configuration=configuration.name,
        hidden_p=HIDDEN_P,
        labels=idea.labels,
        because=idea.because,
    )


def _compact(shapes: Shapes) -> list[LabelShape]:
    return [item for item in shapes.labels if is_compact(item.shape).holds]


def _is_volume(configuration: Configuration) -> bool:
    return len(configuration.patch) == 3 and not configuration.context


def _in_view(item: LabelShape, configuration: Configuration) -> float:
    """Return the share of the cases whose label is smaller than the patch along every axis."""
    sizes = [
        voxels * mm
        for voxels, mm in zip(configuration.patch, network_spacing_mm(configuration), strict=True)
    ]
    axes = configuration.preprocessing.axes
    fits = [
        all(extent[axis] < size for axis, size in zip(axes, sizes, strict=True))
        for extent in item.extents_mm
    ]
    return sum(fits) / max(len(fits), 1)
