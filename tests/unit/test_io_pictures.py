"""Pictures and TIFF volumes: modes, depths, palettes, axes, spacing beside the file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (its users' name for it)
import tifffile
from PIL import Image as Pillow

from selfseg.errors import ImageError
from selfseg.io.images import label_indices, read_image, read_label_map, write_label_map
from selfseg.records.dataset import Label

RNG = np.random.default_rng(4)
GREY = RNG.integers(0, 255, (7, 9)).astype(np.uint8)
COLOR = RNG.integers(0, 255, (7, 9, 3)).astype(np.uint8)
LABEL = (GREY > 99).astype(np.uint8)
LABELS = (Label(name="one", value=1),)


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif"])
def test_grey_and_color(tmp_path: Path, ending: str) -> None:
    for values in (GREY, COLOR):
        path = tmp_path / f"a{values.ndim}{ending}"
        Pillow.fromarray(values).save(path)
        image = read_image([path])
        expected = values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0)
        np.testing.assert_array_equal(image.array[:, 0], expected)
        assert image.geometry.is_2d
        assert image.geometry.shape == (1, 7, 9)


def test_jpeg_channels_are_split(tmp_path: Path) -> None:
    flat = np.zeros((16, 16, 3), np.uint8) + np.array([200, 100, 50], np.uint8)
    Pillow.fromarray(flat).save(tmp_path / "a.jpg", quality=95)
    image = read_image([tmp_path / "a.jpg"])
    np.testing.assert_allclose(image.array.mean(axis=(1, 2, 3)), [200, 100, 50], atol=2)


def test_alpha_is_dropped_unless_it_says_something(tmp_path: Path) -> None:
    opaque = np.dstack([COLOR, np.full_like(GREY, 255)])
    Pillow.fromarray(opaque).save(tmp_path / "opaque.png")
    assert read_image([tmp_path / "opaque.png"]).array.shape[0] == 3
    Pillow.fromarray(np.dstack([COLOR, GREY])).save(tmp_path / "varies.png")
    np.testing.assert_array_equal(read_image([tmp_path / "varies.png"]).array[3, 0], GREY)
    Pillow.fromarray(np.dstack([GREY, np.full_like(GREY, 255)])).save(tmp_path / "grey.png")
    assert read_image([tmp_path / "grey.png"]).array.shape[0] == 1


def test_sixteen_bits(tmp_path: Path) -> None:
    deep = GREY.astype(np.uint16) * 257
    Pillow.fromarray(deep).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image([tmp_path / "grey.png"]).array[0, 0], deep)
    color = COLOR.astype(np.uint16) * 250 + 3
    sitk.WriteImage(sitk.GetImageFromArray(color, isVector=True), str(tmp_path / "color.png"))
    found = read_image([tmp_path / "color.png"]).array[:, 0]
    np.testing.assert_array_equal(found, np.moveaxis(color, -1, 0))


def test_palette_is_color_for_images_and_index_for_labels(tmp_path: Path) -> None:
    picture = Pillow.fromarray(LABEL).convert("P")
    picture.putpalette([0, 0, 0, 255, 10, 20] + [0] * 762)
    picture.save(tmp_path / "p.png")
    np.testing.assert_array_equal(read_image([tmp_path / "p.png"]).array[1, 0], LABEL * 10)
    np.testing.assert_array_equal(read_label_map(tmp_path / "p.png").array[0, 0], LABEL)


def test_one_bit_and_equal_colors_as_labels(tmp_path: Path) -> None:
    Pillow.fromarray(LABEL * 255).convert("1").save(tmp_path / "bit.png")
    np.testing.assert_array_equal(read_label_map(tmp_path / "bit.png").array[0, 0], LABEL)
    equal = np.dstack([LABEL * 200] * 3)
    Pillow.fromarray(equal).save(tmp_path / "equal.png")
    np.testing.assert_array_equal(read_label_map(tmp_path / "equal.png").array[0, 0], LABEL * 200)
    Pillow.fromarray(COLOR).save(tmp_path / "code.png")
    with pytest.raises(ImageError, match="3 channels"):
        read_label_map(tmp_path / "code.png")


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif", ".tiff"])
def test_label_pictures_come_back(tmp_path: Path, ending: str) -> None:
    Pillow.fromarray(LABEL).save(tmp_path / f"in{ending}")
    image = read_label_map(tmp_path / f"in{ending}")
    path = tmp_path / "deep" / f"out{ending}"
    indices = label_indices(image.array, LABELS)[0]
    write_label_map(indices, LABELS, native=image.native, orientation=image.orientation, path=path)
    with Pillow.open(path) as written:
        assert written.mode == "L"
        np.testing.assert_array_equal(np.asarray(written), LABEL)
    assert [item.name for item in path.parent.iterdir()] == [path.name]
    with pytest.raises(ImageError, match=r"\.jpg cannot hold"):
        write_label_map(
            indices,
            LABELS,
            native=image.native,
            orientation=image.orientation,
            path=tmp_path / "out.jpg",
        )


def test_label_values_above_a_byte_are_written_as_16_bit_png(tmp_path: Path) -> None:
    labels = (Label(name="far", value=1000),)
    Pillow.fromarray(LABEL.astype(np.uint16) * 1000).save(tmp_path / "in.png")
    image = read_label_map(tmp_path / "in.png")
    write_label_map(
        label_indices(image.array, labels)[0],
        labels,
        native=image.native,
        orientation=image.orientation,
        path=tmp_path / "out.png",
    )
    np.testing.assert_array_equal(read_label_map(tmp_path / "out.png").array, image.array)


STACK = RNG.integers(0, 60000, (5, 7, 9)).astype(np.uint16)


def test_tiff_pages_are_a_volume_with_spacing_beside(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a_0000.tif", STACK)
    image = read_image([tmp_path / "a_0000.tif"])
    np.testing.assert_array_equal(image.array[0], STACK)
    assert not image.geometry.is_2d
    assert image.geometry.spacing_mm == (1.0, 1.0, 1.0)
    (tmp_path / "a.json").write_text('{"spacing": [3, 0.5, 0.5]}')
    image = read_image([tmp_path / "a_0000.tif"])
    assert image.geometry.spacing_mm == (3.0, 0.5, 0.5)
    path = tmp_path / "out" / "a.tif"
    write_label_map(
        (STACK > 9).astype(np.int16),
        LABELS,
        native=image.native,
        orientation=image.orientation,
        path=path,
    )
    assert json.loads((path.parent / "a.json").read_text()) == {"spacing": [3.0, 0.5, 0.5]}
    assert read_label_map(path).native == image.native
    np.testing.assert_array_equal(read_label_map(path).array[0], STACK > 9)
    (tmp_path / "a.json").write_text('{"spacing": [0, 1]}')
    with pytest.raises(ImageError, match=r"a\.json: no usable spacing"):
        read_image([tmp_path / "a_0000.tif"])


@pytest.mark.parametrize(
    ("axes", "shape", "expected"),
    [
        ("ZCYX", (5, 2, 7, 9), (2, 5, 7, 9)),
        ("CYX", (2, 7, 9), (2, 1, 7, 9)),
        ("ZYX", (5, 7, 9), (1, 5, 7, 9)),
        ("TZCYX", (1, 5, 2, 7, 9), (2, 5, 7, 9)),
    ],
)
def test_tiff_axes(
    tmp_path: Path, axes: str, shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    values = RNG.integers(0, 99, shape).astype(np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, imagej=axes != "CYX", ome=axes == "CYX", metadata={"axes": axes})
    image = read_image([path])
    assert image.array.shape == expected
    if axes == "ZCYX":
        np.testing.assert_array_equal(image.array, values.transpose(1, 0, 2, 3))


def test_compressed_and_deep_color_tiff(tmp_path: Path) -> None:
    Pillow.fromarray(COLOR).save(tmp_path / "lzw.tif", compression="tiff_lzw")
    np.testing.assert_array_equal(
        read_image([tmp_path / "lzw.tif"]).array[:, 0], np.moveaxis(COLOR, -1, 0)
    )
    Pillow.fromarray(GREY).save(tmp_path / "grey.tif", compression="tiff_lzw")
    np.testing.assert_array_equal(read_image([tmp_path / "grey.tif"]).array[0, 0], GREY)
    deep = COLOR.astype(np.uint16) * 200
    tifffile.imwrite(tmp_path / "deep.tif", deep, photometric="rgb")
    np.testing.assert_array_equal(
        read_image([tmp_path / "deep.tif"]).array[:, 0], np.moveaxis(deep, -1, 0)
    )


def test_time_series_and_animations_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "t.tif", STACK, imagej=True, metadata={"axes": "TYX"})
    with pytest.raises(ImageError, match=r"t\.tif: TIFF axes TYX"):
        read_image([tmp_path / "t.tif"])
    first = Pillow.fromarray(GREY)
    first.save(tmp_path / "a.png", save_all=True, append_images=[Pillow.fromarray(GREY[::-1])])
    with pytest.raises(ImageError, match="animation of 2"):
        read_image([tmp_path / "a.png"])
