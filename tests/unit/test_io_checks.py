"""Findings about cases: values, channels, grids, labels, copies."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from selfseg.io.checks import check_case, find_duplicates
from selfseg.io.companions import digest_image
from selfseg.io.images import Image
from selfseg.records.dataset import Case, Dataset, File, Label
from selfseg.records.geometry import Geometry, Orientation

SHAPE = (2, 3, 4)
GRID = Geometry(shape=SHAPE, spacing_mm=(2.0, 1.0, 1.0))
DATASET = Dataset(
    name="d",
    root="/",
    layout="nnunet",
    channels=("T1", "T2"),
    labels=(Label(name="tumor", value=4),),
    cases=(),
)


def case(ending: str = ".nii.gz", label_ending: str = ".nii.gz", files: int = 2) -> Case:
    return Case(
        id="a",
        images=tuple(File(path=f"imagesTr/a_000{i}{ending}") for i in range(files)),
        reference=File(path=f"labelsTr/a{label_ending}"),
    )


def image(channels: int = 2, **changes: object) -> Image:
    grid = GRID.model_copy(update=changes)
    array = np.zeros((channels, *grid.shape), np.float32)
    return Image(array, grid, grid, Orientation())


def reference(**changes: object) -> Image:
    result = image(1, **changes)
    array = np.zeros(result.array.shape, np.int32)
    array[0, 0, 0, 0] = 4
    return Image(array, result.geometry, result.native, result.orientation)


def test_a_good_case_has_no_complaints() -> None:
    assert check_case(case(), image(), reference(), DATASET) == []
    assert check_case(case(), image(), None, DATASET) == []


def test_values_and_channels() -> None:
    bad = image(2)
    bad.array[1, 0, 0, :2] = (np.nan, np.inf)
    assert check_case(case(), bad, None, DATASET) == [
        "imagesTr/a_0001.nii.gz: 2 of 24 values of channel 1 are NaN or infinite; "
        "replace them, for example by the background's value"
    ]
    (line,) = check_case(case(files=1), image(3), None, DATASET)
    assert line.startswith(
        "imagesTr/a_0000.nii.gz: 3 channels where dataset.json declares 2 (T1, T2); "
    )


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"shape": (2, 3, 5)}, "size 2×3×4 and 2×3×5 voxels"),
        ({"spacing_mm": (2.0, 1.0, 1.5)}, "spacing 2×1×1 and 2×1×1.5 mm"),
        ({"origin_mm": (0.0, 9.0, 0.0)}, "origin (0, 0, 0) and (0, 9, 0) mm"),
        (
            {"direction": ((0.0, 0.0, -1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))},
            "direction [0 0 1; 0 1 0; 1 0 0] and [0 0 -1; 0 1 0; 1 0 0]",
        ),
    ],
)
def test_grid_of_the_label_map(changes: dict[str, object], finding: str) -> None:
    (line,) = check_case(case(), image(), reference(**changes), DATASET)
    assert line.startswith(
        f"labelsTr/a.nii.gz: not on the grid of imagesTr/a_0000.nii.gz: {finding}"
    )
    assert "resample" in line
    # Of another size it is no wrong header; of the same one it may be.
    assert ("copy the image's header" in line) == ("shape" not in changes)


def test_a_wrong_header_is_one_complaint() -> None:
    wrong = reference(spacing_mm=(1.0, 1.0, 1.0), origin_mm=(5.0, 5.0, 5.0))
    (line,) = check_case(case(), image(), wrong, DATASET)
    assert "spacing 2×1×1 and 1×1×1 mm (Z×Y×X); origin (0, 0, 0) and (5, 5, 5) mm" in line


def test_pictures_need_only_the_same_size() -> None:
    mixed = case(label_ending=".png")
    assert check_case(mixed, image(), reference(spacing_mm=(1.0, 1.0, 1.0)), DATASET) == []
    (line,) = check_case(mixed, image(), reference(shape=(2, 4, 4)), DATASET)
    assert "not of the size of imagesTr/a_0000.nii.gz: size 2×3×4 and 2×4×4" in line
    turned = Image(image().array, GRID, GRID, Orientation(flips=(False, True, True)))
    (line,) = check_case(mixed, turned, reference(), DATASET)
    assert "has no orientation" in line


def test_label_values() -> None:
    odd = reference()
    odd.array[0, 1] = 7
    (line,) = check_case(case(), image(), odd, DATASET)
    assert line == (
        "labelsTr/a.nii.gz: label values not declared in dataset.json: 7 "
        "(declared: 0 background, 4 tumor); declare them or correct the file"
    )
    healthy = reference()
    healthy.array[:] = 0
    assert check_case(case(), image(), healthy, DATASET) == []


def test_duplicates_by_digest(tmp_path: Path) -> None:
    def with_digest(name: str, *digests: str) -> Case:
        return Case(id=name, images=tuple(File(path=name, digest=digest) for digest in digests))

    cases = [
        with_digest("a", "1", "2"),
        with_digest("b", "1", "2"),
        with_digest("c", "1", "3"),
        with_digest("d", ""),
        with_digest("e", ""),
    ]
    assert find_duplicates(cases) == ["cases a, b: identical images; keep one of them"]
    path = tmp_path / "x"
    path.write_bytes(b"content")
    assert digest_image(path) == hashlib.sha256(b"content").hexdigest()


def test_partial_annotation_is_fine_and_none_is_not() -> None:
    dataset = DATASET.model_copy(update={"ignore": 9})
    partial = reference()
    partial.array[0, 1] = 9
    assert check_case(case(), image(), partial, dataset) == []
    assert "not declared" in check_case(case(), image(), partial, DATASET)[0]
    partial.array[:] = 9
    (complaint,) = check_case(case(), image(), partial, dataset)
    assert complaint.startswith("labelsTr/a.nii.gz: no voxel is annotated")
