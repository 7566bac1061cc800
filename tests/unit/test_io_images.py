"""Volumes: canonical reading, exact writing, label values."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (its users' name for it)
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from selfseg.errors import DatasetError, GeometryError, ImageError
from selfseg.io.geometry import (
    canonical_geometry,
    closest_orientation,
    grid_differences,
    to_canonical,
    to_native,
)
from selfseg.io.images import (
    IMAGE_ENDINGS,
    case_name,
    image_ending,
    label_indices,
    read_image,
    read_label_map,
    write_label_map,
    write_volume,
)
from selfseg.records.dataset import Label
from selfseg.records.geometry import Geometry, Orientation

LABELS = (Label(name="a", value=3), Label(name="b", value=255))


def itk_image(
    array: NDArray[np.generic],
    spacing: tuple[float, ...] = (0.7, 0.8, 2.5),
    origin: tuple[float, ...] = (-11.25, 7.5, 100.125),
    direction: NDArray[np.float64] | None = None,
) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    if direction is not None:
        image.SetDirection(direction.ravel().tolist())
    return image


def stored(path: Path, image: sitk.Image) -> Path:
    sitk.WriteImage(image, str(path))
    return path


def same_grid(a: sitk.Image, b: sitk.Image, tolerance: float) -> None:
    assert a.GetSize() == b.GetSize()
    np.testing.assert_allclose(a.GetSpacing(), b.GetSpacing(), rtol=tolerance)
    np.testing.assert_allclose(a.GetOrigin(), b.GetOrigin(), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(a.GetDirection(), b.GetDirection(), atol=tolerance)


VOXELS = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)


def test_axes_and_geometry_of_a_plain_volume(tmp_path: Path) -> None:
    image = read_image([stored(tmp_path / "a.nrrd", itk_image(VOXELS))])
    assert image.array.dtype == np.float32
    np.testing.assert_array_equal(image.array, VOXELS[None])
    assert image.geometry.shape == (4, 5, 6)
    assert image.geometry.spacing_mm == (2.5, 0.8, 0.7)
    assert image.geometry.origin_mm == (-11.25, 7.5, 100.125)
    assert image.geometry == image.native
    assert image.orientation == Orientation()


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd"])
@pytest.mark.parametrize("order", ["LPS", "RAS", "PSR", "ILA", "AIR"])
def test_same_content_stored_otherwise_is_the_same_image(
    tmp_path: Path, ending: str, order: str
) -> None:
    plain = itk_image(VOXELS)
    turned = sitk.DICOMOrient(plain, order)
    first = read_image([stored(tmp_path / f"first{ending}", plain)])
    second = read_image([stored(tmp_path / f"second{ending}", turned)])
    np.testing.assert_array_equal(first.array, second.array)
    assert second.array.flags.c_contiguous
    assert grid_differences(first.geometry, second.geometry) == []
    np.testing.assert_allclose(first.geometry.origin_mm, second.geometry.origin_mm, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    shape=st.tuples(*[st.integers(1, 5)] * 3),
    spacing=st.tuples(*[st.floats(0.2, 6)] * 3),
    mirrored=st.booleans(),
    ending=st.sampled_from([".nii", ".mha", ".nrrd"]),
)
def test_any_oblique_label_map_comes_back_exactly(
    angles: tuple[float, float, float],
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    mirrored: bool,
    ending: str,
) -> None:
    direction = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    if mirrored:
        direction[:, 0] *= -1
    values = np.random.default_rng(0).choice(np.array([0, 3, 255], np.uint8), shape)
    with tempfile.TemporaryDirectory() as folder:
        original = itk_image(values, spacing, (1.5, -200.25, 33.0), direction)
        path = stored(Path(folder) / f"in{ending}", original)
        image = read_label_map(path)
        written = Path(folder) / f"out{ending}"
        write_label_map(
            label_indices(image.array, LABELS)[0],
            LABELS,
            native=image.native,
            orientation=image.orientation,
            path=written,
        )
        before, after = sitk.ReadImage(str(path)), sitk.ReadImage(str(written))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(after), values)
    assert after.GetPixelID() == sitk.sitkUInt8
    # NIfTI keeps float32; the others keep double, MetaImage as decimal text.
    same_grid(before, after, 2e-6 if ending == ".nii" else 1e-12)


@settings(max_examples=60, deadline=None)
@given(
    angles=st.tuples(*[st.integers(-8, 8)] * 3),
    order=st.permutations(range(3)),
    flips=st.tuples(*[st.booleans()] * 3),
)
def test_canonical_grid_does_not_depend_on_how_it_is_stored(
    angles: tuple[int, int, int], order: list[int], flips: tuple[bool, bool, bool]
) -> None:
    """Steps of 22.5 degrees hold the ties at 45 degrees."""
    rotation = Rotation.from_euler("xyz", [22.5 * angle for angle in angles], degrees=True)
    rows = [tuple(float(v) for v in row) for row in rotation.as_matrix()[:, ::-1]]
    native = Geometry(
        shape=(3, 4, 5),
        spacing_mm=(2.0, 1.0, 0.5),
        origin_mm=(5.0, -3.0, 8.0),
        direction=(rows[0], rows[1], rows[2]),  # type: ignore[arg-type]
    )
    stored_as = Orientation(permutation=(order[0], order[1], order[2]), flips=flips)
    other = canonical_geometry(native, stored_as)
    voxels = np.arange(60).reshape(3, 4, 5)
    grids, arrays = [], []
    for geometry, array in ((native, voxels), (other, to_canonical(voxels, stored_as))):
        orientation = closest_orientation(geometry)
        grids.append(canonical_geometry(geometry, orientation))
        arrays.append(to_canonical(array, orientation))
        np.testing.assert_array_equal(to_native(arrays[-1], orientation), array)
    assert grid_differences(*grids) == []
    np.testing.assert_array_equal(arrays[0], arrays[1])


def test_orientation_is_the_best_of_all_not_a_greedy_choice() -> None:
    """Taking the largest cosine first (0.9 at x of column 0) would force a poor rest."""
    matrix = np.array([[0.9, 0.85, 0.0], [0.85, 0.1, 0.0], [0.0, 0.0, 1.0]])
    rows = [tuple(float(v) for v in row) for row in matrix[:, ::-1]]
    native = Geometry(
        shape=(2, 2, 2),
        spacing_mm=(1.0, 1.0, 1.0),
        direction=(rows[0], rows[1], rows[2]),  # type: ignore[arg-type]
    )
    orientation = closest_orientation(native)
    assert orientation.permutation == (0, 2, 1)
    sums = [
        sum(abs(matrix[:, ::-1][[2, 1, 0][row], column]) for row, column in enumerate(order))
        for order in itertools.permutations(range(3))
    ]
    chosen = list(itertools.permutations(range(3))).index(orientation.permutation)
    assert sums[chosen] == pytest.approx(max(sums))


def test_world_points_stay_where_they_are(tmp_path: Path) -> None:
    direction = Rotation.from_euler("xyz", (100, 20, 200), degrees=True).as_matrix()
    plain = itk_image(VOXELS, direction=direction)
    image = read_image([stored(tmp_path / "a.mha", plain)])
    geometry = image.geometry
    for index in ((0, 0, 0), (3, 2, 1), (1, 0, 3)):
        world = np.array(geometry.origin_mm) + np.array(geometry.direction) @ (
            np.array(index) * geometry.spacing_mm
        )
        native = plain.TransformPhysicalPointToIndex(world.tolist())
        assert image.array[(0, *index)] == plain[native]


def test_two_dimensional_volumes(tmp_path: Path) -> None:
    flat = itk_image(VOXELS[0], (0.5, 0.75), (3.0, 4.0), np.diag([-1.0, 1.0]))
    for ending in (".nii.gz", ".mha", ".nrrd"):
        path = stored(tmp_path / f"flat{ending}", flat)
        image = read_image([path])
        assert image.array.shape == (1, 1, 5, 6)
        assert image.geometry.is_2d
        assert image.geometry.spacing_mm == (1.0, 0.75, 0.5)
        np.testing.assert_array_equal(image.array[0, 0], VOXELS[0][:, ::-1])
        written = tmp_path / f"written{ending}"
        write_volume(
            image.array[0], native=image.native, orientation=image.orientation, path=written
        )
        back = sitk.ReadImage(str(written))
        assert back.GetDimension() == 2
        np.testing.assert_array_equal(sitk.GetArrayFromImage(back), VOXELS[0])
        same_grid(sitk.ReadImage(str(path)), back, 1e-6)


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd"])
def test_fourth_axis_becomes_channels(tmp_path: Path, ending: str) -> None:
    volumes = [itk_image(VOXELS + 1000 * channel) for channel in range(3)]
    path = stored(tmp_path / f"four{ending}", sitk.JoinSeries(volumes))
    image = read_image([path])
    assert image.array.shape == (3, 4, 5, 6)
    np.testing.assert_array_equal(image.array[2], VOXELS + 2000)
    assert image.native.spacing_mm == pytest.approx((2.5, 0.8, 0.7))


def test_vector_voxels_become_channels(tmp_path: Path) -> None:
    vector = sitk.Compose([itk_image(VOXELS), itk_image(-VOXELS)])
    image = read_image([stored(tmp_path / "vector.mha", vector)])
    np.testing.assert_array_equal(image.array, np.stack([VOXELS, -VOXELS]))


def test_files_are_concatenated_and_must_share_a_grid(tmp_path: Path) -> None:
    first = stored(tmp_path / "a_0000.nrrd", itk_image(VOXELS))
    flipped = stored(tmp_path / "a_0001.nrrd", sitk.DICOMOrient(itk_image(VOXELS * 2), "RAS"))
    image = read_image([first, flipped])
    np.testing.assert_array_equal(image.array, np.stack([VOXELS, VOXELS * 2]))
    moved = stored(tmp_path / "a_0002.nrrd", itk_image(VOXELS, (0.7, 0.9, 2.5), (0.0, 0, 0)))
    small = stored(tmp_path / "a_0003.nrrd", itk_image(VOXELS[1:]))
    with pytest.raises(GeometryError) as caught:
        read_image([first, moved, small])
    message = str(caught.value)
    assert "a_0002.nrrd: spacing 2.5×0.8×0.7 and 2.5×0.9×0.7 mm" in message
    assert "a_0002.nrrd: origin (-11.25, 7.5, 100.125) and (0, 0, 0) mm" in message
    assert "a_0003.nrrd: size 4×5×6 and 3×5×6" in message


def test_float_noise_is_one_grid_and_a_tenth_of_a_voxel_is_not() -> None:
    grid = Geometry(
        shape=(100, 512, 512),
        spacing_mm=(2.5, 0.9765625, 0.9765625),
        origin_mm=(-249.512, 0.0, 9.0),
    )
    rounded = grid.model_copy(
        update={"spacing_mm": (2.5, 0.976563, 0.976563), "origin_mm": (-249.51, 0.0, 9.0)}
    )
    assert grid_differences(grid, rounded) == []
    moved = grid.model_copy(update={"origin_mm": (-249.412, 0.0, 9.0)})
    assert [line.split()[0] for line in grid_differences(grid, moved)] == ["origin"]
    coarse = grid.model_copy(update={"spacing_mm": (2.5, 0.977, 0.9765625)})
    assert [line.split()[0] for line in grid_differences(grid, coarse)] == ["spacing"]
    turned = grid.model_copy(
        update={"direction": ((0.0, 0.001, 1.0), (0.0, 1.0, -0.001), (1.0, 0.0, 0.0))}
    )
    assert [line.split()[0] for line in grid_differences(grid, turned)] == ["direction"]


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64, np.uint16, np.int8])
def test_whole_numbers_of_any_type_are_labels(tmp_path: Path, kind: type[np.generic]) -> None:
    values = np.array([0, 3, 100], kind)[np.arange(120).reshape(4, 5, 6) % 3]
    image = read_label_map(stored(tmp_path / "label.nii.gz", itk_image(values)))
    assert image.array.dtype == np.int32
    assert image.array.shape == (1, 4, 5, 6)
    np.testing.assert_array_equal(image.array[0], sitk.GetArrayFromImage(itk_image(values)))


def test_soft_labels_and_label_channels_are_refused(tmp_path: Path) -> None:
    soft = np.linspace(0, 1, 120, dtype=np.float32).reshape(4, 5, 6)
    with pytest.raises(ImageError, match=r"soft\.nrrd.*no whole numbers"):
        read_label_map(stored(tmp_path / "soft.nrrd", itk_image(soft)))
    soft[:] = np.nan
    with pytest.raises(ImageError, match="nan"):
        read_label_map(stored(tmp_path / "nan.nrrd", itk_image(soft)))
    several = sitk.JoinSeries([itk_image(VOXELS * 0)] * 3)
    with pytest.raises(ImageError, match="3 channels"):
        read_label_map(stored(tmp_path / "several.nii.gz", several))


def test_large_label_values_are_kept(tmp_path: Path) -> None:
    labels = (Label(name="region", value=2**32 - 7),)
    values = np.array([0, 2**32 - 7], np.uint32)[np.arange(120).reshape(4, 5, 6) % 2]
    image = read_label_map(stored(tmp_path / "large.nrrd", itk_image(values)))
    indices = label_indices(image.array, labels)[0]
    assert set(np.unique(indices)) == {0, 1}
    path = tmp_path / "out.nrrd"
    write_label_map(indices, labels, native=image.native, orientation=image.orientation, path=path)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), values)


def test_undeclared_values_are_named() -> None:
    values = np.array([[0, 3, 255], [7, 9, 0]], np.int32)
    with pytest.raises(DatasetError, match=r"7, 9 \(declared: 0 background, 3 a, 255 b\)"):
        label_indices(values, LABELS)
    with pytest.raises(DatasetError, match="-1"):
        label_indices(np.array([-1, 3]), LABELS)
    indices = label_indices(values[:1], LABELS)
    assert indices.dtype == np.int16
    assert indices.tolist() == [[0, 1, 2]]


def test_nothing_is_left_behind_when_writing_fails(tmp_path: Path) -> None:
    native = Geometry(shape=(2, 3, 4), spacing_mm=(1.0, 1.0, 1.0))
    with pytest.raises(ImageError, match=r"a\.png"):
        write_label_map(
            np.zeros((2, 3, 4), np.int16),
            LABELS,
            native=native,
            orientation=Orientation(),
            path=tmp_path / "a.png",
        )
    with pytest.raises(ImageError, match="format not supported"):
        write_volume(
            np.zeros((2, 3, 4), np.float32),
            native=native,
            orientation=Orientation(),
            path=tmp_path / "a.txt",
        )
    assert list(tmp_path.iterdir()) == []


def test_endings() -> None:
    assert image_ending(Path("a/B.NII.GZ")) == ".nii.gz"
    assert image_ending(Path("a.nii")) == ".nii"
    assert image_ending(Path("a.gz")) == ""
    assert case_name(Path("x/case.1.nii.gz")) == "case.1"
    assert case_name(Path("case_0000.TIFF")) == "case_0000"
    assert IMAGE_ENDINGS.index(".nii.gz") < IMAGE_ENDINGS.index(".nii")


def test_what_is_not_annotated_has_the_last_index_and_its_value_again(tmp_path: Path) -> None:
    values = np.array([0, 3, 255, 7], np.uint8)[np.arange(120).reshape(4, 5, 6) % 4]
    image = read_label_map(stored(tmp_path / "partial.nrrd", itk_image(values)))
    indices = label_indices(image.array, LABELS, 7)[0]
    assert set(np.unique(indices[values == 7])) == {3}
    path = tmp_path / "out.nrrd"
    write_label_map(
        indices, LABELS, native=image.native, orientation=image.orientation, path=path, ignore=7
    )
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), values)
    with pytest.raises(DatasetError, match=r"9 \(declared: .*255 b, 7 ignore\)"):
        label_indices(np.array([9, 7]), LABELS, 7)
