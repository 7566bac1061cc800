"""Per-label facts: size, components, extent. Shape facts find their place here later."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from selfseg.records.fingerprint import LabelFacts, LabelSummary
from selfseg.records.serial import Triple

MM3_PER_ML = 1000.0
ABSENT = LabelFacts(
    voxels=0, volume_ml=0.0, components=0, largest_share=0.0, extent_mm=(0.0, 0.0, 0.0)
)


def measure_labels(
    indices: npt.NDArray[np.integer], num_labels: int, spacing_mm: Triple
) -> tuple[LabelFacts, ...]:
    """Measure labels 1 … num_labels of a (Z, Y, X) label map.

    Components touch by faces, edges or corners (26 neighbors; 8 in a single slice).
    """
    from scipy import ndimage

    boxes = ndimage.find_objects(indices, max_label=num_labels)
    everywhere = np.ones((3, 3, 3), dtype=bool)
    facts = []
    for index, box in enumerate(boxes, start=1):
        if box is None:
            facts.append(ABSENT)
            continue
        mask = indices[box] == index
        components, count = ndimage.label(mask, structure=everywhere)
        sizes = np.bincount(components.ravel())[1:]
        voxels = int(sizes.sum())
        z, y, x = (float(n * s) for n, s in zip(mask.shape, spacing_mm, strict=True))
        facts.append(
            LabelFacts(
                voxels=voxels,
                volume_ml=float(voxels * np.prod(spacing_mm) / MM3_PER_ML),
                components=int(count),
                largest_share=float(sizes.max() / voxels),
                extent_mm=(z, y, x),
            )
        )
    return tuple(facts)


def summarize_label(name: str, cases: Sequence[LabelFacts]) -> LabelSummary:
    """Return medians over the cases that have the label, and the share of cases that do."""
    present = [facts for facts in cases if facts.voxels] or [ABSENT]
    extents = np.array([facts.extent_mm for facts in present])
    z, y, x = (float(value) for value in np.median(extents, axis=0))
    return LabelSummary(
        name=name,
        share_of_cases=sum(facts.voxels > 0 for facts in cases) / max(len(cases), 1),
        median_voxels=float(np.median([facts.voxels for facts in present])),
        median_volume_ml=float(np.median([facts.volume_ml for facts in present])),
        median_components=float(np.median([facts.components for facts in present])),
        median_largest_share=float(np.median([facts.largest_share for facts in present])),
        median_extent_mm=(z, y, x),
    )
