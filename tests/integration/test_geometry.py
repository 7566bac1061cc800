"""A prediction lies exactly where its image lies, however the image is stored."""

import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (its users' name for it)
import torch
from PIL import Image as Picture
from tinymodel import LABELS, save_model, tiny_configuration, tiny_plan
from torch import Tensor, nn

from selfseg.inference.predictor import Model, load_model, predict_cases
from selfseg.io.images import read_image
from selfseg.io.unlabeled import list_cases
from selfseg.records.plan import Configuration

CPU = torch.device("cpu")
SPACING = (0.7, 0.8, 2.5)  # x, y, z


class Thresholds(nn.Module):
    """Class 1 above 0.5, class 2 above 1.5: exact for every voxel."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        value = x[:, :1]
        return (torch.cat([torch.zeros_like(value), value - 0.5, 2 * value - 2], dim=1),)


def rotation(z: float, y: float = 0.0, x: float = 0.0) -> np.ndarray:
    """Return a world rotation about z, then y, then x, in degrees."""
    matrix = np.eye(3)
    for degrees, (i, j) in ((z, (0, 1)), (y, (2, 0)), (x, (1, 2))):
        turn = np.eye(3)
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        turn[i, i] = turn[j, j] = cos
        turn[i, j], turn[j, i] = -sin, sin
        matrix = turn @ matrix
    return matrix


DIRECTIONS = {
    "identity": np.eye(3),
    "flipped": np.diag([-1.0, -1.0, 1.0]),
    "mirrored": np.diag([-1.0, 1.0, 1.0]),
    "sagittal": np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
    "coronal flipped": np.array([[-1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]]),
    "oblique": rotation(20, -13, 31),
    "oblique permuted": rotation(95, 12, -80),
}


def block_volume(shape: tuple[int, ...] = (7, 18, 22)) -> np.ndarray:
    """Values 0, 1, 2 at random; both far corners are set, so that nothing is cropped."""
    volume = np.random.default_rng(4).integers(0, 3, shape).astype(np.float32)
    volume.flat[0] = volume.flat[-1] = 1
    return volume


def smooth_volume() -> np.ndarray:
    grid = np.random.default_rng(5).normal(size=(12, 24, 26)).astype(np.float32)
    return grid + 0.1


def make_image(array: np.ndarray, direction: np.ndarray | None = None) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    if array.ndim == 3:
        image.SetSpacing(SPACING)
        image.SetOrigin((-31.25, 17.5, 102.75))
        image.SetDirection((np.eye(3) if direction is None else direction).ravel().tolist())
    return image


def own_grid(**changes: object) -> Configuration:
    """Return a configuration that resamples nothing in the images of these tests."""
    configuration = tiny_configuration(spacing_mm=(2.5, 0.8, 0.7))
    return Configuration.model_validate({**dict(configuration), **changes})


def oracle(configuration: Configuration) -> Model:
    plan = tiny_plan(configuration)
    return Model(Path(), plan, configuration, ("0",), (), Thresholds(), CPU)


def keeping_grid_of(path: Path) -> Configuration:
    """Return a configuration whose working spacing is the canonical one of an image."""
    spacing = read_image([path]).geometry.spacing_mm
    preprocessing = own_grid().preprocessing.model_copy(update={"spacing_mm": spacing})
    return own_grid(preprocessing=preprocessing)


def predict(model: Model, image: Path, output: Path) -> sitk.Image:
    report = predict_cases(model, list_cases(image, len(model.plan.channels)), output)
    assert report.failed == ()
    (made,) = output.iterdir()
    assert made.name == image.name
    return sitk.ReadImage(str(made))


def assert_same_grid(made: sitk.Image, image: sitk.Image) -> None:
    """Compare grids exactly, but for the last digits that NRRD and NIfTI (float32) cannot keep."""
    assert made.GetSize() == image.GetSize()
    assert made.GetSpacing() == pytest.approx(image.GetSpacing(), rel=1e-14)
    assert made.GetOrigin() == image.GetOrigin()
    np.testing.assert_allclose(made.GetDirection(), image.GetDirection(), rtol=0, atol=1e-7)


def file_values(indices: np.ndarray) -> np.ndarray:
    values = np.array([0, *(label.value for label in LABELS)])
    return np.asarray(values[indices.astype(int)])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Return a U-Net with random weights that gives all labels."""
    folder = tmp_path_factory.mktemp("model")
    configuration = own_grid(patch=(8, 16, 16))
    save_model(folder, tiny_plan(configuration))
    return load_model(folder, device=CPU)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("name", DIRECTIONS)
def test_size_spacing_origin_direction_and_voxels_are_kept(
    tmp_path: Path, ending: str, name: str
) -> None:
    volume = block_volume()
    path = tmp_path / f"scan{ending}"
    sitk.WriteImage(make_image(volume, DIRECTIONS[name]), str(path))
    made = predict(oracle(keeping_grid_of(path)), path, tmp_path / "out")
    assert_same_grid(made, sitk.ReadImage(str(path)))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(made), file_values(volume))


@pytest.mark.parametrize("name", ["identity", "oblique permuted"])
def test_the_grid_is_kept_through_resampling(tmp_path: Path, name: str, trained: Model) -> None:
    path = tmp_path / "scan.nii.gz"
    sitk.WriteImage(make_image(smooth_volume(), DIRECTIONS[name]), str(path))
    coarse = trained.configuration.preprocessing.model_copy(
        update={"spacing_mm": (3.1, 1.1, 1.3), "axes": (0, 2, 1)}
    )
    configuration = trained.configuration.model_copy(update={"preprocessing": coarse})
    model = Model(Path(), trained.plan, configuration, ("0",), (), trained.network, CPU)
    made = predict(model, path, tmp_path / "out")
    assert_same_grid(made, sitk.ReadImage(str(path)))
    assert len(np.unique(sitk.GetArrayFromImage(made))) > 1


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_one_scan_stored_in_other_axes_gives_the_same_segmentation(
    tmp_path: Path, ending: str, trained: Model
) -> None:
    scan = make_image(smooth_volume(), rotation(8, 5, -11))
    first = tmp_path / f"a{ending}"
    sitk.WriteImage(scan, str(first))
    reference = predict(trained, first, tmp_path / "first")
    assert len(np.unique(sitk.GetArrayFromImage(reference))) > 1
    for number, (order, flips) in enumerate(
        [((0, 1, 2), (True, False, True)), ((2, 0, 1), (False,) * 3), ((1, 0, 2), (True,) * 3)]
    ):
        stored = sitk.Flip(sitk.PermuteAxes(scan, order), flips)
        path = tmp_path / f"stored_{number}{ending}"
        sitk.WriteImage(stored, str(path))
        made = predict(trained, path, tmp_path / f"out_{number}")
        assert_same_grid(made, sitk.ReadImage(str(path)))
        inverse = [order.index(axis) for axis in range(3)]
        back = sitk.PermuteAxes(sitk.Flip(made, flips), inverse)
        np.testing.assert_allclose(back.GetDirection(), reference.GetDirection(), atol=1e-6)
        np.testing.assert_allclose(back.GetOrigin(), reference.GetOrigin(), atol=1e-4)
        np.testing.assert_array_equal(
            sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(reference)
        )


@pytest.mark.parametrize("shape", [(1, 18, 22), (9, 1, 30), (5, 18, 1)])
def test_volumes_one_voxel_thick(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    volume = block_volume(shape)
    path = tmp_path / "scan.nii.gz"
    sitk.WriteImage(make_image(volume, DIRECTIONS["flipped"]), str(path))
    made = predict(oracle(own_grid()), path, tmp_path / "out")
    assert_same_grid(made, sitk.ReadImage(str(path)))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(made), file_values(volume))


def test_a_crop_to_the_nonzero_region_is_undone(tmp_path: Path) -> None:
    volume = np.pad(block_volume(), ((3, 1), (5, 4), (2, 9)))
    path = tmp_path / "scan.nrrd"
    sitk.WriteImage(make_image(volume, DIRECTIONS["mirrored"]), str(path))
    made = predict(oracle(own_grid()), path, tmp_path / "out")
    assert_same_grid(made, sitk.ReadImage(str(path)))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(made), file_values(volume))


def test_a_2d_network_on_a_volume(tmp_path: Path) -> None:
    volume = block_volume()
    path = tmp_path / "scan.nii.gz"
    sitk.WriteImage(make_image(volume, DIRECTIONS["flipped"]), str(path))
    configuration = tiny_configuration("2d", spacing_mm=(None, 0.8, 0.7))
    made = predict(oracle(configuration), path, tmp_path / "out")
    assert_same_grid(made, sitk.ReadImage(str(path)))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(made), file_values(volume))


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_grey_and_color(tmp_path: Path, ending: str, channels: int) -> None:
    values = block_volume((33, 41)).astype(np.uint8)
    pixels = values if channels == 1 else np.stack([values, values // 2, values], axis=-1)
    path = tmp_path / f"cells{ending}"
    Picture.fromarray(pixels).save(path)
    configuration = tiny_configuration(
        "2d", channels=channels, spacing_mm=(None, 1.0, 1.0), patch=(16, 16)
    )
    plan = tiny_plan(configuration, channels=channels)
    model = Model(Path(), plan, configuration, ("0",), (0, 1), Thresholds(), CPU)
    report = predict_cases(model, list_cases(path, channels), tmp_path / "out")
    assert report.failed == ()
    made = np.asarray(Picture.open(tmp_path / "out" / f"cells{ending}"))
    np.testing.assert_array_equal(made, file_values(values))


def test_a_2d_image_in_a_medical_format(tmp_path: Path) -> None:
    values = block_volume((33, 41))
    path = tmp_path / "scan.nii.gz"
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((0.5, 0.25))
    image.SetOrigin((4.0, -3.0))
    sitk.WriteImage(image, str(path))
    configuration = tiny_configuration("2d", spacing_mm=(None, 0.25, 0.5), patch=(16, 16))
    made = predict(oracle(configuration), path, tmp_path / "out")
    assert_same_grid(made, sitk.ReadImage(str(path)))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(made), file_values(values))


def test_the_voxel_aspect_survives_a_wide_range_of_spacings(tmp_path: Path) -> None:
    volume = smooth_volume()
    for number, spacing in enumerate([(0.1, 0.1, 10.0), (3.0, 0.4, 0.4), (1e-3, 1e-3, 1e-3)]):
        image = make_image(volume)
        image.SetSpacing(spacing)
        path = tmp_path / f"scan_{number}.nrrd"
        sitk.WriteImage(image, str(path))
        configuration = own_grid(
            preprocessing=own_grid().preprocessing.model_copy(
                update={"spacing_mm": (spacing[2] * 1.5, spacing[1], spacing[0] * 0.8)}
            )
        )
        made = predict(oracle(configuration), path, tmp_path / f"out_{number}")
        assert_same_grid(made, sitk.ReadImage(str(path)))
