"""What the shapes of the labels ask of the loss: what is on by default, what a race is to try."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from selfseg.records.dataset import Dataset
from selfseg.records.fingerprint import Fingerprint
from selfseg.records.ideas import Idea
from selfseg.records.loss import (
    AdaptiveCrossEntropyTerm,
    BlobDiceTerm,
    BoundaryTerm,
    CbDiceTerm,
    ClDiceTerm,
    CrossEntropyTerm,
    Loss,
    LossTerm,
    SegmentTerm,
    SignedDistanceTerm,
    SkeletonRecallTerm,
    SmoothnessTerm,
)
from selfseg.records.names import ConfigurationName
from selfseg.records.plan import Configuration, Decision
from selfseg.records.shapes import ShapeSummary

from .rarity import class_voxels
from .shapes import is_compact, is_tubular

# Thin tubes lose branches to losses of volume; thick ones do not (Kirchhoff et al. 2024).
THIN_SHARE, THICK_VOXELS = 0.3, 6.0
# Soft skeletons in space cost as many erosions as the thickest tube has voxels of radius.
# Where the thickest branches are so many times wider than most, thin ones hardly count.
UNEVEN_RADII = 2.0
THICK_3D_VOXELS, MOST_EROSIONS = 4.0, 10
# A head for distances pays while there are few cases to learn a form from.
DISTANCE_CASES = 60
# Errors weigh more while there is little to learn from, or where borders are faint.
FEW_CASES, FAINT_CONTRAST = 50, 1.0
SMALL_VOXELS = 1000
# Small targets in a large image.
RARE_SHARE, BOUNDARY_WEIGHT, BOUNDARY_RAMP = 1e-3, 0.01, 0.5
# Lesions: several of them in most cases, and of different size.
SEVERAL, SIZE_SPREAD = 3, 2.0
VOXELWISE = ("cross_entropy", "binary_cross_entropy")
RARITY_LIMITS = (0.5, 4.0)


@dataclass(frozen=True)
class LabelShape:
    """A label with what is known of its shape."""

    name: str
    voxels: float
    shape: ShapeSummary

    @property
    def contrast(self) -> float | None:
        """Of the channel that shows the border best; None if none does."""
        return max((c for c in self.shape.median_contrast if c is not None), default=None)

    @property
    def is_faint(self) -> bool:
        """The border steps by less than the spread of intensities inside."""
        return self.contrast is not None and self.contrast < FAINT_CONTRAST


@dataclass(frozen=True)
class Shapes:
    """All labels that occur, and how many cases there are.

    Attributes:
        labels: With their shapes.
        rarity: Share of the voxels of each label, background first; None if unknown.
        cases: Number of training cases.
    """

    labels: tuple[LabelShape, ...]
    rarity: tuple[float, ...] | None
    cases: int

    @property
    def tubular(self) -> tuple[str, ...]:
        """Names of the labels that consist of tubes."""
        return tuple(item.name for item in self.labels if is_tubular(item.shape).holds)


def gather_shapes(dataset: Dataset, fingerprint: Fingerprint) -> Shapes:
    """Collect what is known of the labels; regions are not measured, so of them nothing is."""
    if dataset.regions:
        return Shapes((), None, len(fingerprint.cases))
    labels = tuple(
        LabelShape(label.name, label.median_voxels, label.shape)
        for label in fingerprint.labels
        if label.shape is not None
    )
    return Shapes(labels, _frequencies(fingerprint), len(fingerprint.cases))


def decide_tubes(shapes: Shapes) -> tuple[tuple[str, ...], tuple[Decision, ...]]:
    """Return the labels that consist of tubes, and why; nothing is decided where none does."""
    decisions = tuple(
        Decision(
            rule="tubes",
            subject=f"tubular.{item.name}",
            value="tubes",
            because=f"{is_tubular(item.shape).because}; its parts are as real as the whole: no "
            "component is removed in post-processing",
            alternatives=("like any other label",),
        )
        for item in shapes.labels
        if item.name in shapes.tubular
    )
    return shapes.tubular, decisions


def decide_tube_term(
    name: ConfigurationName, loss: Loss, shapes: Shapes, spacing_mm: float
) -> tuple[Loss, tuple[Decision, ...]]:
    """Add the tube loss where labels are thin tubes.

    Args:
        name: Configuration.
        loss: As planned so far.
        shapes: Of the labels.
        spacing_mm: Of the finest axis of the working grid.
    """
    thin = [item for item in shapes.labels if _thin_tubes(item, shapes, spacing_mm)]
    if not thin:
        return loss, ()
    term = SkeletonRecallTerm(labels=tuple(item.name for item in thin))
    decision = Decision(
        rule="tube_loss",
        subject=f"configurations.{name}.loss.terms",
        value=f"+ {term.weight:g} {term.kind} of {', '.join(item.name for item in thin)}",
        because="; ".join(_tube_evidence(item, spacing_mm) for item in thin)
        + "; a volume term hardly notices a lost branch of one or two voxels",
        alternatives=("without it", "cl_dice", "segments"),
    )
    return loss.model_copy(update={"terms": (*loss.terms, term)}), (decision,)


def nominate(configuration: Configuration, shapes: Shapes) -> tuple[Idea, ...]:
    """Return what a race should try on a configuration, in the order in which it should.

    Rules and limits are our own; they only nominate.
    """
    ideas = (
        _adaptive(configuration, shapes),
        _smoothness(configuration, shapes),
        _distances(configuration, shapes),
        _boundary(configuration, shapes),
        _blobs(configuration, shapes),
        *_tube_ideas(configuration, shapes),
        _class_weights(configuration, shapes),
    )
    return tuple(idea for idea in ideas if idea is not None)


def _spacing_mm(configuration: Configuration) -> tuple[float, ...]:
    """Return the working spacing of each axis of the network."""
    spacing = configuration.preprocessing.spacing_mm[-len(configuration.patch) :]
    return tuple(value for value in spacing if value is not None)


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
    spacing_mm = _spacing_mm(configuration)
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
        because=f"{', '.join(names)}: compact; {shapes.cases} cases (at most {DISTANCE_CASES}): "
        "the distance to the surface tells of the form everywhere",
    )


def _boundary(configuration: Configuration, shapes: Shapes) -> Idea | None:
    if shapes.rarity is None or not shapes.rarity[1:] or shapes.tubular:
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


def _tube_ideas(configuration: Configuration, shapes: Shapes) -> tuple[Idea, ...]:
    name, flat = configuration.name, len(configuration.patch) == 2
    finest = min(_spacing_mm(configuration))
    thin = [item for item in shapes.labels if _thin_tubes(item, shapes, finest)]
    if not thin:
        return ()
    because = "; ".join(_tube_evidence(item, finest) for item in thin)
    names = tuple(item.name for item in thin)
    radius = max(item.shape.median_r95_mm for item in thin) / finest
    found: list[tuple[str, LossTerm]] = [("segments", SegmentTerm(labels=names))]
    if flat or radius <= THICK_3D_VOXELS:
        erosions = min(ceil(radius) + 1, MOST_EROSIONS)
        uneven = max(item.shape.median_r95_mm / item.shape.median_r50_mm for item in thin)
        if uneven >= UNEVEN_RADII:
            found.append(("cb_dice", CbDiceTerm(labels=names, iterations=erosions)))
        found.append(("cl_dice", ClDiceTerm(labels=names, iterations=erosions)))
    return tuple(
        Idea(name=idea, configuration=name, terms=(term,), labels=names, because=because)
        for idea, term in found
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


def _thin_tubes(item: LabelShape, shapes: Shapes, spacing_mm: float) -> bool:
    radius = item.shape.median_r50_mm / spacing_mm
    thin = item.shape.median_thin_share >= THIN_SHARE
    return item.name in shapes.tubular and thin and radius <= THICK_VOXELS


def _tube_evidence(item: LabelShape, spacing_mm: float) -> str:
    return (
        f"{item.name} consists of tubes, {item.shape.median_thin_share:.0%} of their length at "
        f"most 3 voxels wide (asked: {THIN_SHARE:.0%}), median radius "
        f"{item.shape.median_r50_mm / spacing_mm:.2g} voxels (limit {THICK_VOXELS:g})"
    )


def _contrast(item: LabelShape) -> str:
    return f"{item.name}: contrast {item.contrast:.2g} at its border (limit {FAINT_CONTRAST:g})"


def _frequencies(fingerprint: Fingerprint) -> tuple[float, ...] | None:
    """Return the share of the annotated voxels of each class, background first."""
    counts = class_voxels(fingerprint)
    if len(counts) < 2 or min(counts) <= 0:
        return None
    return tuple(count / sum(counts) for count in counts)
