"""A model of a CT as nnU-Net stores it, with random weights: `FOLDER`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import nnunetmodel
import torch

CT_FEATURES, CT_PATCH, CT_SPACING_MM = (8, 16, 32, 64), [64, 128, 128], [2.0, 1.0, 1.0]


def write_ct_model(folder: Path) -> Path:
    """Write a model of a CT with random weights, as nnU-Net stores it; return its folder."""
    shutil.rmtree(folder, ignore_errors=True)
    stages = len(CT_FEATURES)
    arguments = nnunetmodel.network_kwargs() | {
        "n_stages": stages,
        "features_per_stage": list(CT_FEATURES),
        "kernel_sizes": [[3, 3, 3]] * stages,
        "strides": [[1, 1, 1], *[[2, 2, 2]] * (stages - 1)],
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
    }
    configuration = nnunetmodel.configuration(arguments, spacing=CT_SPACING_MM, patch=CT_PATCH)
    configuration["architecture"]["_kw_requires_import"] = ["conv_op", "norm_op", "nonlin"]
    configuration |= {"normalization_schemes": ["CTNormalization"], "use_mask_for_norm": [False]}
    dataset = nnunetmodel.DATASET | {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "organ": 1, "lesion": 2},
    }
    torch.manual_seed(0)
    network = nnunetmodel.NnUNet(arguments, 1, 3)
    described = nnunetmodel.plans({"3d_fullres": configuration})
    return nnunetmodel.write_model(folder, network, described, dataset=dataset, mirror=None)


if __name__ == "__main__":
    write_ct_model(Path(sys.argv[1]))
