"""Pictures of segmentations: gray image with outlines of reference and prediction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from selfseg.records.serial import Triple

# Okabe-Ito colors: told apart by color-blind readers as well.
COLORS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")


def save_overlay(
    image: npt.NDArray[np.float32],
    reference: npt.NDArray[np.integer],
    prediction: npt.NDArray[np.integer],
    path: Path,
    *,
    names: Sequence[str],
    spacing_mm: Triple,
    title: str,
) -> None:
    """Write a PNG: image, reference and prediction in the slices with the most foreground.

    Args:
        image: One channel, (Z, Y, X); gray levels run from its 1st to its 99th percentile.
        reference: Label indices, (Z, Y, X).
        prediction: Label indices, (Z, Y, X).
        path: File to write.
        names: Name of label 1, 2, …
        spacing_mm: Voxel size (Z, Y, X); sets the aspect.
        title: Line above the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    low, high = np.percentile(image, (1, 99))
    slices = _telling_slices(reference)
    figure = Figure(figsize=(3.2 * len(slices), 7.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(slices), squeeze=False)
    for column, z in enumerate(slices):
        for row, (what, labels) in enumerate(
            (("reference", reference), ("prediction", prediction))
        ):
            axis = axes[row][column]
            axis.imshow(
                image[z], cmap="gray", vmin=low, vmax=high, aspect=spacing_mm[1] / spacing_mm[2]
            )
            for index in range(1, len(names) + 1):
                mask = labels[z] == index
                if mask.any() and not mask.all():
                    axis.contour(mask, levels=[0.5], colors=[_color(index)], linewidths=1.5)
            axis.set_title(f"{what}, slice {z}", fontsize=9)
            axis.set_axis_off()
    lines = [Line2D([], [], color=_color(i + 1), label=name) for i, name in enumerate(names)]
    figure.legend(handles=lines, loc="outside lower center", ncols=len(names), frameon=False)
    figure.suptitle(title, fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _telling_slices(reference: npt.NDArray[np.integer], count: int = 3) -> list[int]:
    """Return up to `count` slices about the one with the most of the rarest label."""
    values, voxels = np.unique(reference[reference > 0], return_counts=True)
    if values.size == 0:
        return [reference.shape[0] // 2]
    area = (reference == values[voxels.argmin()]).sum(axis=(1, 2))
    best = int(area.argmax())
    first = min(max(best - count // 2, 0), max(reference.shape[0] - count, 0))
    return list(range(first, min(first + count, reference.shape[0])))


def _color(index: int) -> str:
    return COLORS[(index - 1) % len(COLORS)]
