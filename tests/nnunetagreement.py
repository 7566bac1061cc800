"""How far an imported model's label maps agree with those that nnU-Net itself made."""

from __future__ import annotations

from pathlib import Path

import SimpleITK
from realdata import data_root

from selfseg.importing import import_nnunet
from selfseg.pipeline import predict_images
from selfseg.requests import PredictRequest


def agreement(tmp_path: Path, cases: list[str], *, tta: bool) -> dict[str, float]:
    """Return the share of equal voxels of each case with nnU-Net's own label maps."""
    source, images = data_root("nnunet_model"), data_root("hippocampus") / "imagesTs"
    model = import_nnunet(source / "model", output=tmp_path / "model", workspace=tmp_path).folder
    for case in cases:
        target = tmp_path / "images" / f"{case}_0000.nii.gz"
        target.parent.mkdir(exist_ok=True)
        target.symlink_to(images / target.name)
    predict_images(
        PredictRequest(source=tmp_path / "images", output=tmp_path / "out", model=model, tta=tta)
    )
    theirs = source / ("predictions_mirrored" if tta else "predictions_plain")
    shares = {}
    for case in cases:
        found, expected = (
            SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(folder / f"{case}.nii.gz")))
            for folder in (tmp_path / "out", theirs)
        )
        assert (expected > 0).any()
        shares[case] = float((found == expected).mean())
    return shares
