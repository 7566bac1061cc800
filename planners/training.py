"""Loss, augmentation, optimization, inference: nnU-Net v2's values, and one short recipe."""

from __future__ import annotations

from collections.abc import Sequence

from selfseg.records.augmentation import Augmentation
from selfseg.records.loss import Loss
from selfseg.records.loss_terms import BinaryCrossEntropyTerm, CrossEntropyTerm, DiceTerm
from selfseg.records.optimization import SGD, AdamW, Optimization, Poly, Recipe, WarmupCosine
from selfseg.records.plan import Decision, Inference

DUMMY_2D_RATIO = 3.0  # longest patch axis over the first, above which slices move in plane only
ELONGATED_2D = 1.5  # longest over shortest axis of a 2D patch, above which it hardly rotates
DEGREES_3D, DEGREES_PLANE, DEGREES_ELONGATED = 30.0, 180.0, 15.0
SHORT_BELOW_STEPS = 10_000
SHORT_RATE = 4e-3  # of AdamW; measured in 2D, 2.5D, 3D, 8 to 32 features wide (docs/benchmarks.md)
FEW_ANNOTATED = 0.5  # of the voxels; below it a short run is mirrored too. Measured at a tenth.


def decide_loss(name: str, *, has_coarser: bool, regions: bool = False) -> tuple[Loss, Decision]:
    """Dice plus cross-entropy, one weight each; Dice over the batch where a patch sees little.

    Args:
        name: Configuration.
        has_coarser: A coarser 3D configuration exists, as patches cover little of the image.
        regions: Outputs overlap, so that each is a decision of its own.
    """
    batch_dice = name == "2d" or (name in ("3d_fullres", "3d_cascade") and has_coarser)
    reason = REGIONS_REASON if regions else ""
    reason += "overlap and voxel-wise term together are the most robust choice over data sets; "
    voxelwise = BinaryCrossEntropyTerm() if regions else CrossEntropyTerm()
    loss = Loss(terms=(DiceTerm(batch=batch_dice), voxelwise))
    over = "the whole batch" if batch_dice else "each sample"
    decision = Decision(
        rule="loss",
        subject=f"configurations.{name}.loss",
        value=f"dice + {voxelwise.kind}, Dice over {over}",
        because=f"{reason}a patch sees a part of a case, or one slice, so the Dice is pooled"
        if batch_dice
        else f"{reason}a patch covers enough of a case for a Dice of its own",
    )
    return loss, decision


def decide_augmentation(
    name: str, patch: Sequence[int], mirror_axes: tuple[int, ...]
) -> tuple[Augmentation, Decision]:
    """Rotate fully in the plane, by 30° in space, and in the plane only for flat patches."""
    longest, shortest = max(patch), min(patch)
    if len(patch) == 2:
        elongated = longest / shortest > ELONGATED_2D
        degrees = DEGREES_ELONGATED if elongated else DEGREES_PLANE
        because = f"2D patch with a longest over shortest axis of {longest / shortest:.2g}"
        flat = False
    else:
        flat = longest / patch[0] > DUMMY_2D_RATIO
        degrees = DEGREES_PLANE if flat else DEGREES_3D
        because = f"3D patch with a longest over first axis of {longest / patch[0]:.2g}"
    because += f" (limit {ELONGATED_2D if len(patch) == 2 else DUMMY_2D_RATIO:g})"
    value = Augmentation(dummy_2d=flat, rotation_degrees=degrees, mirror_axes=mirror_axes)
    decision = Decision(
        rule="augmentation",
        subject=f"configurations.{name}.augmentation",
        value=f"rotation ±{degrees:g}°{' in the plane of the slices' if flat else ''}, "
        f"mirroring of axes {', '.join(map(str, mirror_axes)) or 'none'}",
        because=because,
    )
    return value, decision


def decide_optimization(name: str, *, annotated_share: float) -> tuple[Optimization, Decision]:
    """SGD over 250,000 steps, and a recipe of its own for short runs.

    Args:
        name: Configuration.
        annotated_share: Voxels that are annotated at all, as a share.
    """
    mirror = annotated_share < FEW_ANNOTATED
    value = Optimization(
        recipe=Recipe(optimizer=SGD(), schedule=Poly()),
        short_recipe=Recipe(
            optimizer=AdamW(learning_rate=SHORT_RATE),
            schedule=WarmupCosine(),
            schedule_per_epoch=False,
            average_decay=0.99,
            mirror=mirror,
            rotation_limit_degrees=DEGREES_3D,
            validation_share=0.05,
        ),
        short_below_steps=SHORT_BELOW_STEPS,
    )
    decision = Decision(
        rule="optimization",
        subject=f"configurations.{name}.optimization",
        value=f"SGD, poly over {value.epochs} × {value.steps_per_epoch} steps; "
        f"below {SHORT_BELOW_STEPS} steps AdamW {SHORT_RATE:g}, warm-up, cosine, averaged "
        f"weights, {'' if mirror else 'no '}mirroring, rotation at most {DEGREES_3D:g}°",
        because=SHORT_REASON.format(
            mirroring=FEW_REASON.format(share=annotated_share, limit=FEW_ANNOTATED)
            if mirror
            else WHOLE_REASON
        ),
        alternatives=("SGD for short runs", f"{'no ' if mirror else ''}mirroring in short runs"),
    )
    return value, decision


def decide_inference(name: str, mirror_axes: tuple[int, ...]) -> tuple[Inference, Decision]:
    """Windows half a patch apart, weighted by a Gaussian, mirrored as in training."""
    value = Inference(mirror_axes=mirror_axes)
    decision = Decision(
        rule="inference",
        subject=f"configurations.{name}.inference",
        value=f"windows {value.step:g} patch apart, Gaussian weight of σ {value.window_sigma:g} "
        f"patch, {2 ** len(mirror_axes)} mirrored views",
        because="predictions are best in the middle of a window, so windows overlap and their "
        "borders count less; views may be mirrored along the axes mirrored in training",
        alternatives=("no mirroring: faster", "step 1: no overlap"),
    )
    return value, decision


REGIONS_REASON = "regions may overlap, so each voxel is in or out of each (sigmoid); "
SHORT_REASON = (
    "the long recipe is nnU-Net's; the short one was chosen on one data set, hippocampus MR (40 "
    "training cases): 461 steps of batch 2 in 15 minutes reached a mean Dice of 0.872 on 40 unseen "
    "cases, 1,250 steps of nnU-Net in 41 minutes 0.856 on 60 others; its learning rate was raised "
    "from 0.001 later: 500 steps there gain a point, 300 to 400 on lung nodules 1 (3D) to 4 "
    "(2.5D); {mirroring}"
)
WHOLE_REASON = "a short run has no time to learn mirrored anatomies"
FEW_REASON = (
    "{share:.4g} of the voxels are annotated (limit {limit:g}): of generated cases with a tenth "
    "annotated a network that was not mirrored memorized that tenth"
)
