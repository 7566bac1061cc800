from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainingdata import make_folder, write_case

from selfseg.errors import SelfSegError
from selfseg.loading.patches import CaseFolder, cut

CORNERS = st.tuples(*[st.integers(-12, 12)] * 3)
SHAPES = st.tuples(*[st.integers(1, 12)] * 3)


@given(CORNERS, SHAPES)
def test_cut_equals_padding_and_slicing(
    corner: tuple[int, int, int], shape: tuple[int, int, int]
) -> None:
    array = np.arange(2 * 5 * 6 * 7, dtype=np.float32).reshape(2, 5, 6, 7)
    padded = np.pad(array, [(0, 0), *[(24, 24)] * 3], constant_values=-1)
    window = tuple(slice(at + 24, at + 24 + size) for at, size in zip(corner, shape, strict=True))
    got = cut(array, corner, shape, fill=-1)
    assert np.array_equal(got, padded[(slice(None), *window)])
    assert not np.shares_memory(got, array)


def test_files_and_memory_give_the_same_patches(tmp_path: Path) -> None:
    ids = make_folder(tmp_path, channels=2)
    files, memory = CaseFolder(tmp_path, ids), CaseFolder(tmp_path, ids)
    assert memory.hold_in_memory()
    assert not files.hold_in_memory(limit_bytes=1000)
    assert isinstance(memory[1].image, np.ndarray)
    assert not isinstance(files[1].image, np.ndarray)
    for corner in ((0, 0, 0), (-4, 20, 10)):
        image, label = files.cut(1, corner, (10, 12, 14))
        held, target = memory.cut(1, corner, (10, 12, 14))
        assert image.dtype == np.float32
        assert label.dtype == np.int16
        assert np.array_equal(image, held)
        assert np.array_equal(label, target)
        # The test image is 10 · label plus noise in [0, 1).
        inside = label >= 0
        assert np.array_equal((image[0] // 10)[inside], label[inside])
        assert (image[:, ~inside] == 0).all()


def test_locations_lie_in_the_order_of_the_labels(tmp_path: Path) -> None:
    ids = make_folder(tmp_path)
    case = CaseFolder(tmp_path, ids)[0]
    label = np.asarray(case.label[slice(None)])
    first = case.counts[0]
    assert {int(label[tuple(row)]) for row in case.locations[:first]} == {1}
    assert {int(label[tuple(row)]) for row in case.locations[first:]} == {2}


def test_open_files_do_not_travel_to_other_processes(tmp_path: Path) -> None:
    cases = CaseFolder(tmp_path, make_folder(tmp_path))
    before = cases.cut(0, (0, 0, 0), (4, 4, 4))[0]
    copy = pickle.loads(pickle.dumps(cases))
    assert not copy._open
    cases.hold_in_memory()
    assert not pickle.loads(pickle.dumps(cases))._held
    assert np.array_equal(copy.cut(0, (0, 0, 0), (4, 4, 4))[0], before)


def test_missing_cases_are_listed_at_once(tmp_path: Path) -> None:
    ids = make_folder(tmp_path)
    with pytest.raises(SelfSegError, match=r"(?s)ghost_a\.json.*ghost_b\.json.*selfseg plan"):
        CaseFolder(tmp_path, (*ids, "ghost_a", "ghost_b"))
    with pytest.raises(SelfSegError, match="empty"):
        CaseFolder(tmp_path, ())


def test_damaged_files_are_named_with_a_remedy(tmp_path: Path) -> None:
    ids = make_folder(tmp_path)
    np.save(tmp_path / f"{ids[0]}_locations.npy", np.zeros((1, 3), np.int32))
    with pytest.raises(SelfSegError, match=r"(?s)case_0 consists of .* do not fit.*selfseg plan"):
        CaseFolder(tmp_path, ids)[0]
    (tmp_path / f"{ids[1]}_locations.npy").write_bytes(b"no array")
    with pytest.raises(SelfSegError, match="case_1 has no usable class locations"):
        CaseFolder(tmp_path, ids)[1]
    (tmp_path / f"{ids[1]}_locations.npy").write_bytes(b"")
    with pytest.raises(SelfSegError, match="case_1 has no usable class locations"):
        CaseFolder(tmp_path, ids)[1]
    (tmp_path / f"{ids[2]}_label.b2nd").write_bytes(b"no array")
    with pytest.raises(SelfSegError, match="case_2_label"):
        CaseFolder(tmp_path, ids)[2]


def test_a_damaged_block_is_named_with_a_remedy(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    label = (rng.random((32, 32, 32)) < 0.5).astype(np.int16)
    write_case(tmp_path, "case", rng.random((1, 32, 32, 32)), label)
    path = tmp_path / "case_label.b2nd"
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[400:middle] = b"\xff" * (middle - 400)
    path.write_bytes(bytes(content))
    with pytest.raises(SelfSegError, match=r"(?s)case.*(decompressed|damaged).*selfseg plan"):
        CaseFolder(tmp_path, ("case",)).cut(0, (0, 0, 0), (32, 32, 32))
