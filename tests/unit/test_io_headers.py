"""Sizes of images from their headers: those of the arrays that reading gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import tifffile
from PIL import Image as Pillow

from selfseg.errors import ImageError
from selfseg.io.headers import read_size
from selfseg.io.images import read_image


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd"])
def test_volumes(tmp_path: Path, ending: str) -> None:
    paths = [tmp_path / f"a_{index}{ending}" for index in range(2)]
    for path, kind in zip(paths, (np.int16, np.float32), strict=True):
        volume = sitk.GetImageFromArray(np.ones((4, 5, 6), kind))
        volume.SetSpacing((1.5, 2.0, 3.0))
        sitk.WriteImage(volume, str(path))
    size, read = read_size(paths), read_image(paths)
    assert size.native == read.native
    assert size.channels == read.array.shape[0] == 2
    assert (size.file_bytes, size.largest_file_bytes) == (120 * (2 + 4), 120 * 4)


def test_several_channels_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((3, 4, 5, 6), np.int16), isVector=False), path)
    size = read_size([path])
    assert (size.channels, size.native.shape) == (3, (4, 5, 6))
    assert size.file_bytes == 3 * 120 * 2


def test_pictures(tmp_path: Path) -> None:
    Pillow.fromarray(np.zeros((7, 9, 3), np.uint8)).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((6, 7, 9), np.uint16))
    flat, pages = read_size([tmp_path / "a.png"]), read_size([tmp_path / "b.tif"])
    assert flat.native.shape == (1, 7, 9)
    assert flat.native.is_2d
    assert flat.channels == 3
    tifffile.imwrite(tmp_path / "c.tif", np.zeros((7, 9, 3), np.uint8), photometric="rgb")
    color, read = read_size([tmp_path / "c.tif"]), read_image([tmp_path / "c.tif"])
    assert (color.native, color.channels) == (read.native, 3)
    assert pages.native.shape == (6, 7, 9)
    assert pages.file_bytes == 6 * 7 * 9 * 2


@pytest.mark.parametrize("name", ["a.nii.gz", "a.mha", "a.png", "a.tif", "absent.png"])
def test_broken_headers_are_image_errors(tmp_path: Path, name: str) -> None:
    if not name.startswith("absent"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
    with pytest.raises(ImageError):
        read_size([tmp_path / name])
