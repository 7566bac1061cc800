"""Files that an image is read from beside its own are found, and in its digest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (its users' name for it)

from selfseg.io.companions import companion_files, digest_image
from selfseg.io.images import read_image

VOXELS = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
META = "NDims = 3\nDimSize = 5 4 3\nElementType = MET_UCHAR\nElementDataFile = "
NRRD = "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 5 4 3\nencoding: raw\ndata file: "


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("ending", [".mhd", ".nhdr"])
def test_what_is_written_is_found(tmp_path: Path, ending: str, *, compress: bool) -> None:
    path = tmp_path / f"a b{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS), str(path), useCompression=compress)
    assert {path, *companion_files(path)} == set(tmp_path.iterdir())
    assert len(companion_files(path)) == 1


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("a.mhd", f"{META}LIST\nslice1.raw\nslice2.raw\nslice3.raw\n"),
        ("a.mhd", f"{META}slice%d.raw 1 3 1\n"),
        ("a.nhdr", f"{NRRD}LIST\nslice1.raw\nslice2.raw\nslice3.raw\n"),
        ("a.nhdr", f"{NRRD}slice%d.raw 1 3 1\n"),
    ],
)
def test_a_file_a_slice(tmp_path: Path, name: str, header: str) -> None:
    path, slices = tmp_path / name, [tmp_path / f"slice{number}.raw" for number in (1, 2, 3)]
    path.write_text(header)
    for voxels, file in zip(VOXELS, slices, strict=True):
        file.write_bytes(voxels.tobytes())
    np.testing.assert_array_equal(read_image([path]).array[0], VOXELS)  # so do ITK's readers
    assert companion_files(path) == tuple(slices)
    before = digest_image(path)
    slices[1].write_bytes(bytes(20))
    assert digest_image(path) != before


def test_spacing_beside_a_tiff_counts_and_nothing_beside_other_formats(tmp_path: Path) -> None:
    beside = tmp_path / "a.json"
    for name in ("a_0000.tif", "a_0000.nii.gz", "a.mha"):
        (tmp_path / name).write_bytes(b"content")
    before = digest_image(tmp_path / "a_0000.tif")
    beside.write_text('{"spacing": [1, 1, 1]}')
    assert companion_files(tmp_path / "a_0000.tif") == (beside,)
    assert digest_image(tmp_path / "a_0000.tif") != before
    for name in ("a_0000.nii.gz", "a.mha", "missing.mhd"):
        assert companion_files(tmp_path / name) == ()
    (tmp_path / "b.mhd").write_bytes(b"ElementDataFile = gone.raw")
    assert companion_files(tmp_path / "b.mhd") == ()
