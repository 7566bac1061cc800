"""What the shapes of the labels suggest for the loss: ideas that a race is to try."""

from __future__ import annotations

from selfseg.records.ideas import Idea
from selfseg.records.loss import LossTerm
from selfseg.records.loss_terms import (
    AdaptiveCrossEntropyTerm,
    BlobDiceTerm,
    BoundaryTerm,
    CrossEntropyTerm,
    SignedDistanceTerm,
    SmoothnessTerm,
)
from selfseg.records.plan import Configuration

from .label_shapes import FAINT_CONTRAST, LabelShape, Shapes, network_spacing_mm
from .shape_models import nominate_hidden_parts, nominate_shape_code
from .shapes import is_compact
from .tubes import nominate_tube_terms

# A head for distances pays while there are few cases to learn a form from.
DISTANCE_CASES = 60
# Errors weigh more while there is little to learn from, or where borders are faint.
FEW_CASES = 50
SMALL_VOXELS = 1000
# Small targets in a large image.
MANY_CASES = 500  # with so many, borders are learned from examples
RARE_SHARE, BOUNDARY_WEIGHT, BOUNDARY_RAMP = 1e-3, 0.01, 0.5
# Lesions: several of them in most cases, and of different size.
SEVERAL, SIZE_SPREAD = 3, 2.0
VOXELWISE = ("cross_entropy", "binary_cross_entropy")
RARITY_LIMITS = (0.5, 4.0)


def nominate(configuration: Configuration, shapes: Shapes) -> tuple[Idea, ...]:
    """Return what a race should try on a configuration, in the order in which it should.

    Rules and limits are our own; they only nominate.
    """
    ideas = (
        nominate_shape_code(configuration, shapes),
        nominate_hidden_parts(configuration, shapes),
        _adaptive(configuration, shapes),
        _smoothness(configuration, shapes),
        _distances(configuration, shapes),
        _boundary(configuration, shapes),
        _blobs(configuration, shapes),
        *nominate_tube_terms(configuration, shapes),
        _class_weights(configuration, shapes),
    )
    return tuple(idea for idea in ideas if idea is not None)


def _adaptive(configuration: Configuration, shapes: Shapes) -> Idea | None:
    faint = [item for item in shapes.labels if item.is_faint]
    if shapes.cases > FEW_CASES and not faint:
        return None
    reasons = [f"{shapes.cases} cases (at most {FEW_CASES})"] * (shapes.cases <= FEW_CASES)
    reasons += [_contrast(item) for item in faint]
    replaced = [term for term in configuration.loss.terms if term.kind in VOXELWISE]
    if not replaced:
        return None
    weights = next((t.class_weights for t in replaced if isinstance(t, CrossEntropyTerm)), None)
    return Idea(
        name="adaptive_cross_entropy",
        configuration=configuration.name,
        terms=(AdaptiveCrossEntropyTerm(weight=replaced[0].weight, class_weights=weights),),
        replaces=tuple(term.kind for term in replaced),
        because="; ".join(reasons) + ": voxels that are wrong now weigh more",
    )


def _smoothness(configuration: Configuration, shapes: Shapes) -> Idea | None:
    """Compact labels with faint borders; thin or small ones would be worn away."""
    wanted = [item for item in shapes.labels if item.is_faint and is_compact(item.shape).holds]
    fragile = [item for item in shapes.labels if item.voxels < SMALL_VOXELS]
    if not wanted or fragile or shapes.tubular:
        return None
    spacing_mm = network_spacing_mm(configuration)
    finest = min(spacing_mm)
    return Idea(
        name="smoothness",
        configuration=configuration.name,
        terms=(SmoothnessTerm(axis_weights=tuple((finest / s) ** 2 for s in spacing_mm)),),
        because="; ".join(f"{_contrast(item)}, compact" for item in wanted)
        + ": neighbors belong together unless the annotation parts them",
    )


def _distances(configuration: Configuration, shapes: Shapes) -> Idea | None:
    compact = [item for item in shapes.labels if is_compact(item.shape).holds]
    if not compact or shapes.cases > DISTANCE_CASES:
        return None
    names = tuple(item.name for item in compact)
    return Idea(
        name="signed_distance",
        configuration=configuration.name,
        terms=(SignedDistanceTerm(labels=names),),
        labels=names,
        because=f"{', '.join(names)}: compact; {shapes.cases} cases (at most {DISTANCE_CASES}): "
        "the distance to the surface tells of the form everywhere",
    )


def _boundary(configuration: Configuration, shapes: Shapes) -> Idea | None:
    if shapes.rarity is None or not shapes.rarity[1:] or shapes.tubular:
        return None
    if shapes.cases > MANY_CASES:
        return None
    share = sum(shapes.rarity[1:])
    if share >= RARE_SHARE:
        return None
    return Idea(
        name="boundary",
        configuration=configuration.name,
        terms=(BoundaryTerm(weight=BOUNDARY_WEIGHT, ramp=BOUNDARY_RAMP),),
        because=f"{share:.2g} of the voxels are foreground (limit {RARE_SHARE:g}): the distance to "
        "the surface says more than overlap",
    )


def _blobs(configuration: Configuration, shapes: Shapes) -> Idea | None:
    many = [
        item
        for item in shapes.labels
        if item.shape.components_mode >= SEVERAL
        and item.shape.median_size_spread >= SIZE_SPREAD
        and item.name not in shapes.tubular
    ]
    if not many:
        return None
    return Idea(
        name="blob_dice",
        configuration=configuration.name,
        terms=(BlobDiceTerm(),),
        because="; ".join(
            f"{item.name} most often has {item.shape.components_mode} components, the large "
            f"{item.shape.median_size_spread:.2g} times as wide as the small"
            for item in many
        )
        + ": small ones count as much as large ones",
    )


def _class_weights(configuration: Configuration, shapes: Shapes) -> Idea | None:
    """Weights of rare classes, where cross-entropy has none yet."""
    plain = [
        term
        for term in configuration.loss.terms
        if isinstance(term, CrossEntropyTerm) and term.class_weights is None
    ]
    if not plain or shapes.rarity is None or min(shapes.rarity) >= RARE_SHARE:
        return None
    low, high = RARITY_LIMITS
    classes = len(shapes.rarity)
    weights = tuple(
        float(f"{min(max((1 / (classes * share)) ** 0.5, low), high):.3g}")
        for share in shapes.rarity
    )
    replacement: LossTerm = plain[0].model_copy(update={"class_weights": weights})
    return Idea(
        name="class_weights",
        configuration=configuration.name,
        terms=(replacement,),
        replaces=(replacement.kind,),
        because=f"the rarest class has {min(shapes.rarity):.2g} of the voxels (limit "
        f"{RARE_SHARE:g})",
    )


def _contrast(item: LabelShape) -> str:
    return f"{item.name}: contrast {item.contrast:.2g} at its border (limit {FAINT_CONTRAST:g})"
