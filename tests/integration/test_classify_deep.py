"""`selfseg classify` with features of a network: which one it is, and where masks lie."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from lesioncases import GEOMETRY, LABELS, rows_of, run, train
from tinymodel import save_model, tiny_plan

from selfseg.bundles import export_model
from selfseg.errors import DatasetError, ModelError, SelfSegError
from selfseg.io.images import write_label_map, write_volume
from selfseg.records.geometry import Orientation

pytestmark = pytest.mark.usefixtures("small_classifier")


def test_deep_features_come_from_one_known_network(lesions: Path, tmp_path: Path) -> None:
    network, model, out = tmp_path / "network", tmp_path / "model", tmp_path / "p.csv"
    save_model(network, tiny_plan())
    with pytest.raises(SelfSegError, match="--features both: no network"):
        train(lesions, model, "--features", "both")
    with pytest.raises(SelfSegError, match="radiomics need no network"):
        train(lesions, model, "--segmentation", network)
    with pytest.raises(SelfSegError, match="--config and --fold choose from a model"):
        train(lesions, model, "--fold", "0")
    train(lesions, model, "--features", "both", "--segmentation", network)
    names = (model / "features.csv").read_text().partition("\n")[0].split(",")
    assert [name for name in names if name.startswith("deep_")] == [f"deep_{i}" for i in range(8)]
    assert "shape_sphericity" in names
    train(lesions, model, "--features", "deep", "--segmentation", network)
    chosen = {row["feature"] for row in rows_of(model / "chosen_features.csv")}
    assert chosen <= {f"deep_component_{i}" for i in (1, 2, 3)}
    arguments = (
        "predict",
        "-i",
        lesions / "imagesTs",
        "-p",
        lesions / "labelsTs",
        "-m",
        model,
        "-o",
        out,
    )
    with pytest.raises(SelfSegError, match="needs deep features of 3d_fullres fold 0"):
        run(*arguments)
    with pytest.raises(ModelError, match=r"absent: no such file"):
        run("predict", "-i", lesions, "-p", lesions, "-m", tmp_path / "absent", "-o", out)
    export_model(network, tmp_path / "network.zip")
    run(*arguments, "--segmentation", tmp_path / "network.zip")
    assert len(rows_of(out)) == 12
    refuse_misplaced_masks(lesions, tmp_path, model, network)
    weights = network / "models" / "3d_fullres" / "fold_0" / "weights.safetensors"
    save_model(tmp_path / "other", tiny_plan(), folds=("1", "0"))
    other = tmp_path / "other" / "models" / "3d_fullres" / "fold_0" / "weights.safetensors"
    weights.write_bytes(other.read_bytes())
    with pytest.raises(ModelError, match="not the weights that the classifier was trained with"):
        run(*arguments, "--segmentation", network)


def refuse_misplaced_masks(lesions: Path, tmp_path: Path, model: Path, network: Path) -> None:
    """Check that deep features of masks on other grids are refused, all complaints at once."""
    masks, images, out = tmp_path / "masks", tmp_path / "images", tmp_path / "misplaced.csv"
    shutil.copytree(lesions / "labelsTs", masks)
    shutil.copytree(lesions / "imagesTs", images)
    indices = np.ones(GEOMETRY.shape, np.int16)
    indices[5, 5:9, 5:9] = 2
    smaller = GEOMETRY.model_copy(update={"shape": (10, 20, 18)})
    shifted = GEOMETRY.model_copy(update={"origin_mm": (0.0, 7.0, 0.0)})
    for case, geometry in (("case21", smaller), ("case23", shifted)):
        write_label_map(
            np.ascontiguousarray(indices[:, :, : geometry.shape[2]]), LABELS,
            native=geometry, orientation=Orientation(), path=masks / f"{case}.nii.gz",
        )  # fmt: skip
    write_volume(
        np.zeros(GEOMETRY.shape, np.float32), native=GEOMETRY, orientation=Orientation(),
        path=images / "case24_0001.nii.gz",
    )  # fmt: skip
    with pytest.raises(DatasetError, match="3 of 6 cases cannot be used") as caught:
        run("predict", "-i", images, "-p", masks, "-m", model, "-o", out, "--segmentation", network)
    said = str(caught.value)
    assert "case21.nii.gz: not on the grid of" in said
    assert "case23.nii.gz: not on the grid of" in said
    assert "case24_0000.nii.gz: 2 channels, not 1" in said
    assert not out.exists()
