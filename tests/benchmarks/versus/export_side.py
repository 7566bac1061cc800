"""From logits of 60 labels on the network's grid to a label map of full size: time and memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from peakmemory import peak_mib

from versus.measure import MIB, Reported, report

LABELS = 60
SHAPE, SPACING_MM = (200, 256, 256), (1.0, 1.0, 1.0)
GRID, GRID_MM = (133, 171, 171), (1.5, 1.5, 1.5)
Map = npt.NDArray[np.generic]


def logits() -> torch.Tensor:
    """Return logits (labels + 1, *GRID), float16: soft cells around random centers."""
    rng = np.random.default_rng(0)
    centers = rng.uniform(0, 1, (LABELS, 3)) * GRID
    z, y, x = (np.arange(size, dtype=np.float32) for size in GRID)
    made = torch.empty((LABELS + 1, *GRID), dtype=torch.float16)
    made[0] = -(20.0**2) / 100  # background wins 20 voxels away from all centers
    for index, (at_z, at_y, at_x) in enumerate(centers, start=1):
        squared = ((z - at_z) ** 2)[:, None, None] + ((y - at_y) ** 2)[:, None] + (x - at_x) ** 2
        made[index] = torch.from_numpy(-squared / 100).clamp_min(-60)
    return made


def selfseg_export() -> Callable[[torch.Tensor], Map]:
    """Return selfseg's way from logits to a label map."""
    from selfseg.preprocessing.invert import label_map_from_logits
    from selfseg.records.dataset import Label, Targets
    from selfseg.records.geometry import Box, Geometry, Orientation, PreprocessedCase
    from selfseg.records.preprocessing import Resampling

    record = PreprocessedCase(
        id="case",
        source="",
        native=Geometry(shape=SHAPE, spacing_mm=SPACING_MM),
        orientation=Orientation(),
        axes=(0, 1, 2),
        crop=Box(lower=(0, 0, 0), upper=SHAPE),
        shape_before_crop=SHAPE,
        spacing_before_mm=SPACING_MM,
        shape=GRID,
        spacing_mm=GRID_MM,
    )
    labels = tuple(Label(name=str(value), value=value) for value in range(1, LABELS + 1))
    targets = Targets(labels=labels)
    return lambda scores: label_map_from_logits(
        scores, record, Resampling(), targets=targets, max_gib=1.0
    )


def nnunet_export() -> Callable[[torch.Tensor], Map]:
    """Return nnU-Net's way, with the options that its planner writes."""
    from nnunetv2.inference.export_prediction import (
        convert_predicted_logits_to_segmentation_with_correct_shape as convert,
    )
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    options = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    plans = PlansManager(
        {
            "dataset_name": "Dataset001_Many",
            "plans_name": "nnUNetPlans",
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
            "image_reader_writer": "SimpleITKIO",
            "label_manager": "LabelManager",
            "configurations": {
                "3d_fullres": {
                    "architecture": {},
                    "spacing": list(GRID_MM),
                    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
                    "resampling_fn_probabilities_kwargs": options,
                }
            },
        }
    )
    names = {"background": 0} | {str(value): value for value in range(1, LABELS + 1)}
    manager = plans.get_label_manager({"labels": names, "channel_names": {"0": "CT"}})
    properties = {
        "spacing": list(SPACING_MM),
        "shape_before_cropping": SHAPE,
        "bbox_used_for_cropping": [[0, size] for size in SHAPE],
        "shape_after_cropping_and_before_resampling": SHAPE,
    }
    configuration = plans.get_configuration("3d_fullres")
    return lambda scores: convert(
        scores, plans, configuration, manager, properties, num_threads_torch=2
    )


def main(side: str) -> None:
    """Measure one side."""
    torch.set_num_threads(2)
    export = (selfseg_export if side == "selfseg" else nnunet_export)()
    scores = logits()
    before_mib = peak_mib()
    began_s = time.perf_counter()
    label_map = np.asarray(export(scores))
    seconds = time.perf_counter() - began_s
    extra_mib = max(peak_mib() - before_mib, label_map.nbytes / MIB)
    check = f"{LABELS} labels, {np.prod(label_map.shape)} voxels"
    report(Reported(figure=seconds, extra_mib=extra_mib, check=check))
    if len(sys.argv) > 2:
        np.save(sys.argv[2], label_map.astype(np.uint8))


if __name__ == "__main__":
    main(sys.argv[1])
