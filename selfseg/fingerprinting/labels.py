"""Per-label facts: size, components, extent, shape."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from selfseg.fingerprinting.shapes import measure_shape, summarize_shape
from selfseg.records.fingerprint import LabelFacts, LabelSummary
from selfseg.records.geometry import Box
from selfseg.records.serial import Triple
from selfseg.records.shapes import ShapeSummary

MM3_PER_ML = 1000.0
ABSENT = LabelFacts(
    voxels=0, volume_ml=0.0, components=0, largest_share=0.0, extent_mm=(0.0, 0.0, 0.0)
)


def measure_labels(
    indices: npt.NDArray[np.integer],
    num_labels: int,
    spacing_mm: Triple,
    *,
    image: npt.NDArray[np.floating] | None = None,
    body: Box | None = None,
) -> tuple[LabelFacts, ...]:
    """Measure labels 1 … num_labels of a (Z, Y, X) label map.

    Components touch by faces, edges or corners (26 neighbors; 8 in a single slice).

    Args:
        indices: 0 is background; what is beyond `num_labels` is not measured.
        num_labels: Number of labels.
        spacing_mm: Voxel size.
        image: (c, Z, Y, X), for contrasts.
        body: What positions refer to; default: the whole array.
    """
    from scipy import ndimage

    found = ndimage.find_objects(indices, max_label=num_labels)
    facts = []
    for index, box in enumerate(found, start=1):
        if box is None:
            facts.append(ABSENT)
            continue
        shape = measure_shape(indices == index, spacing_mm, image=image, body=body)
        voxels = int(np.count_nonzero(indices[box] == index))
        z, y, x = (float((p.stop - p.start) * s) for p, s in zip(box, spacing_mm, strict=True))
        facts.append(
            LabelFacts(
                voxels=voxels,
                volume_ml=float(voxels * np.prod(spacing_mm) / MM3_PER_ML),
                components=shape.components,
                largest_share=shape.largest_share,
                extent_mm=(z, y, x),
                shape=shape,
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
        shape=_summarize_shapes(cases),
    )


def _summarize_shapes(cases: Sequence[LabelFacts]) -> ShapeSummary | None:
    known = [(facts.shape, facts.volume_ml) for facts in cases if facts.shape is not None]
    return summarize_shape([s for s, _ in known], [volume for _, volume in known], len(cases))
