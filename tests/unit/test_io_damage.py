"""Damaged, truncated and unsupported files end in one ImageError and no noise on stderr."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (its users' name for it)
import tifffile
from PIL import Image as Pillow

from selfseg.errors import ImageError
from selfseg.io.images import read_image
from selfseg.io.volumes import read_volume_header

RNG = np.random.default_rng(3)
VOXELS = RNG.integers(0, 30000, (12, 20, 30)).astype(np.int16)
COLORS = RNG.integers(0, 255, (64, 80, 3)).astype(np.uint8)


def nifti(
    path: Path,
    sizes: Sequence[int],
    voxels: bytes,
    *,
    order: str = "<",
    code: int = 4,
    scaling: tuple[float, float] = (0.0, 0.0),
    magic: bytes = b"n+1\0",
    length: int = 348,
) -> Path:
    header = bytearray(352)
    struct.pack_into(order + "i", header, 0, length)
    struct.pack_into(order + "8h", header, 40, len(sizes), *sizes, *[1] * (7 - len(sizes)))
    struct.pack_into(order + "2h", header, 70, code, 16)
    struct.pack_into(order + "8f", header, 76, 1, *[2.0] * 7)
    struct.pack_into(order + "3f", header, 108, 352.0, *scaling)
    header[344:348] = magic
    content = bytes(header) + voxels
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_example(path: Path) -> Path:
    if path.suffix in (".png", ".jpg", ".bmp"):
        Pillow.fromarray(COLORS).save(path)
    elif path.suffix == ".tif":
        compression = "zlib" if "raw" not in path.name else None
        tifffile.imwrite(path, VOXELS.view(np.uint16), compression=compression)
    else:
        compress = "raw" not in path.name
        sitk.WriteImage(sitk.GetImageFromArray(VOXELS), str(path), useCompression=compress)
    return path


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.97])
@pytest.mark.parametrize(
    "name",
    [
        "a.nii.gz", "a.nii", "a.nrrd", "raw.nrrd", "a.mha", "raw.mha", "a.png", "a.jpg", "a.bmp",
        "a.tif", "raw.tif",
    ],
)  # fmt: skip
def test_truncated_files_are_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, share: float
) -> None:
    path = write_example(tmp_path / name)
    assert read_image([path]).array.size
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ImageError, match=name) as caught:
        read_image([path])
    assert caught.value.remedy
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["a.mhd", "a.nhdr"])
def test_missing_voxel_file_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    path = write_example(tmp_path / name)
    assert read_image([path]).array.shape == (1, *VOXELS.shape)
    for other in tmp_path.iterdir():
        if other != path:
            other.unlink()
    with pytest.raises(ImageError, match=name):
        read_image([path])
    assert capfd.readouterr().err == ""


def test_flipped_bits_in_compressed_nifti_are_found(tmp_path: Path) -> None:
    path = write_example(tmp_path / "a.nii.gz")
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"a\.nii\.gz: (damaged|truncated)"):
        read_image([path])


@pytest.mark.parametrize(
    "content", [b"", b"not an image", b"\x1f\x8b", bytes(400), b"\x89PNG\r\n\x1a\n", b"{" * 5000]
)
@pytest.mark.parametrize(
    "ending", [".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".png", ".jpg", ".tif", ".bmp"]
)
def test_other_content_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], ending: str, content: bytes
) -> None:
    path = tmp_path / f"x{ending}"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=str(path)):
        read_image([path])
    assert capfd.readouterr().err == ""


def test_what_is_no_file_or_no_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        read_image([tmp_path / "a.nii.gz"])
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ImageError, match="no such file"):
        read_image([tmp_path / "folder.png"])
    (tmp_path / "a.hdr").write_bytes(b"x")
    with pytest.raises(ImageError, match=r"format not supported\n.*\.nii\.gz \.nii"):
        read_image([tmp_path / "a.hdr"])


@pytest.mark.parametrize(
    ("sizes", "keywords", "finding"),
    [
        ((2, 2, 2, 2, 3), {}, "5D image"),
        ((4,), {}, "1D image"),
        ((2, 2, 2), {"code": 32}, "voxel type 32"),
        ((2, 2, 2), {"length": 540}, "NIfTI-2"),
        ((2, 2, 2), {"magic": b"ni1\0"}, "not a NIfTI-1 file with voxels"),
        ((2, -2, 2), {}, "damaged header"),
        ((2, 2, 30000), {}, "truncated file"),
    ],
)
def test_nifti_headers_that_cannot_be_used(
    tmp_path: Path, sizes: Sequence[int], keywords: dict[str, int], finding: str
) -> None:
    path = nifti(tmp_path / "a.nii", sizes, bytes(96), **keywords)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match=finding):
        read_image([path])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_byte_order_and_scaling(tmp_path: Path, order: str, name: str) -> None:
    values = np.arange(24, dtype=order + "i2")
    path = nifti(tmp_path / name, (2, 3, 4), values.tobytes(), order=order, scaling=(0.5, -10.0))
    image = read_image([path])
    np.testing.assert_array_equal(image.array.ravel().sum(), (values * 0.5 - 10).sum())
    np.testing.assert_array_equal(
        np.sort(image.array.ravel()), np.sort(values.astype(np.float32) * 0.5 - 10)
    )
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    np.testing.assert_array_equal(image.array[0], expected)


def test_single_slices_and_trailing_axes(tmp_path: Path) -> None:
    values = np.arange(6, dtype="<i2").tobytes()
    slice_3d = read_image([nifti(tmp_path / "a.nii", (2, 3, 1), values)])
    assert (slice_3d.array.shape, slice_3d.geometry.is_2d) == ((1, 1, 3, 2), False)
    flat = read_image([nifti(tmp_path / "b.nii", (2, 3), values)])
    assert (flat.array.shape, flat.geometry.is_2d) == ((1, 1, 3, 2), True)
    trailing = read_image([nifti(tmp_path / "c.nii", (1, 2, 3, 1, 1), values)])
    assert trailing.array.shape == (1, 3, 2, 1)
    series = read_image([nifti(tmp_path / "d.nii", (1, 2, 1, 3), values)])
    assert series.array.shape == (3, 1, 2, 1)


def test_values_beyond_float32_become_infinite_without_a_warning(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.full((2, 3, 4), 1e300)), str(tmp_path / "a.nrrd"))
    assert np.isinf(read_image([tmp_path / "a.nrrd"]).array).all()


def sheared(path: Path, shear: float) -> Path:
    """Write 9 × 11 × 13 voxels (x, y, z) whose second axis leans to the first."""
    voxels = np.arange(9 * 11 * 13, dtype="<i2")
    path = nifti(path, (9, 11, 13), voxels.tobytes())
    header = bytearray(path.read_bytes())
    rows = [[0.0, -1.5, 0.0, 7.0], [1.2, 1.2 * shear, 0.0, 8.0], [0.0, 0.0, 2.0, 9.0]]
    struct.pack_into("<2h", header, 252, 0, 1)
    struct.pack_into("<12f", header, 280, *np.ravel(rows))
    path.write_bytes(header)
    return path


def test_a_shear_within_rounding_is_straightened_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    straight = read_image([sheared(tmp_path / "straight.nii", 0.0)])
    path = sheared(tmp_path / "a.nii", 0.002)
    read_image([path])
    image = read_image([path])
    (told,) = (record for record in caplog.records if "right angles" in record.getMessage())
    assert "5 %" in told.getMessage()
    np.testing.assert_array_equal(image.array, straight.array)
    axes = np.array(image.geometry.direction)
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    # The file's own affine, in LPS: no voxel center is further from it than 5 % of an edge.
    corner = np.array([8, 10, 12])
    for index in (np.zeros(3), corner, corner * [1, 0, 1]):
        world = [-(7 - 1.5 * index[1]), -(8 + 1.2 * index[0] + 0.0024 * index[1]), 9 + 2 * index[2]]
        grid = np.array(image.native.origin_mm) + np.array(image.native.direction) @ (
            index[::-1] * image.native.spacing_mm
        )
        assert 0 < np.linalg.norm(grid - world) < 0.05 * 1.2
    assert read_volume_header(path, ".nii") == (image.native, 1, 2)


def test_a_larger_shear_is_refused_with_a_way_out(tmp_path: Path) -> None:
    path = sheared(tmp_path / "a.nii", 0.05)
    for read in (lambda: read_image([path]), lambda: read_volume_header(path, ".nii")):
        with pytest.raises(ImageError, match="not at right angles") as caught:
            read()
        assert "nibabel" in caught.value.remedy


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("edge_mm", [0.0, float("nan"), float("inf"), -0.7])
def test_a_voxel_size_that_cannot_be_is_refused_whatever_the_sform_says(
    tmp_path: Path, axis: int, edge_mm: float
) -> None:
    path = nifti(tmp_path / "a.nii", (2, 3, 4), bytes(48))
    header = bytearray(path.read_bytes())
    struct.pack_into("<f", header, 80 + 4 * axis, edge_mm)
    struct.pack_into("<2h", header, 252, 0, 1)
    struct.pack_into("<12f", header, 280, 1.2, 0, 0, 0, 0, 1.2, 0, 0, 0, 0, 1.2, 0)
    path.write_bytes(header)
    with pytest.raises(ImageError, match="impossible geometry") as caught:
        read_image([path])
    assert "voxel size" in caught.value.remedy


def test_the_voxel_size_of_an_axis_that_is_not_there_does_not_matter(tmp_path: Path) -> None:
    for sizes in ((2, 3), (2, 3, 1), (2, 3, 1, 2)):
        path = nifti(tmp_path / "a.nii", sizes, bytes(24))
        header = bytearray(path.read_bytes())
        struct.pack_into("<5f", header, 88, *[0.0] * 5)
        path.write_bytes(header)
        assert read_image([path]).geometry.spacing_mm == (1.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("row", "spacing", "finding"),
    [
        ((1.0, 0.3, 0.0, 0.0), 1.0, "not at right angles"),
        ((float("nan"), 0.0, 0.0, 0.0), 1.0, "impossible geometry"),
        (None, -2.0, "impossible geometry"),
    ],
)
def test_impossible_grids_are_refused(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    row: tuple[float, ...] | None,
    spacing: float,
    finding: str,
) -> None:
    path = nifti(tmp_path / "a.nii", (2, 3, 4), bytes(48))
    header = bytearray(path.read_bytes())
    struct.pack_into("<f", header, 80, spacing)
    if row:
        struct.pack_into("<2h", header, 252, 0, 1)
        struct.pack_into("<12f", header, 280, *row, 0, 1, 0, 0, 0, 0, 1, 0)
    path.write_bytes(header)
    with pytest.raises(ImageError, match=finding):
        read_image([path])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("edge", ["0", "-1"])
@pytest.mark.parametrize(
    "header",
    [
        "NDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\nElementSpacing = 1 {} 1\n"
        "ElementDataFile = LOCAL\n",
        "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 2 2 2\nspacings: 1 {} 1\nencoding: raw\n\n",
    ],
)
def test_voxel_sizes_in_other_headers_are_refused_too(
    tmp_path: Path, header: str, edge: str
) -> None:
    path = tmp_path / ("a.nrrd" if header.startswith("NRRD") else "a.mha")
    path.write_bytes(header.format("2").encode() + bytes(8))
    assert read_image([path]).geometry.spacing_mm[1] == 2.0
    path.write_bytes(header.format(edge).encode() + bytes(8))
    with pytest.raises(ImageError, match="spacing"):
        read_image([path])
