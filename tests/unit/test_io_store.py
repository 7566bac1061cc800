"""Training arrays: nnU-Net's chunk rule, exact contents, atomic files, no code in files."""

from __future__ import annotations

from pathlib import Path

import blosc2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfseg.errors import ImageError
from selfseg.io.store import chunk_and_block, open_array, save_array

RNG = np.random.default_rng(1)


@pytest.mark.parametrize(
    ("shape", "patch", "item_bytes", "chunk", "block"),
    [
        ((1, 138, 170, 138), (128, 128, 128), 4, (1, 128, 128, 96), (1, 32, 32, 32)),
        ((1, 138, 170, 138), (128, 128, 128), 2, (1, 138, 170, 128), (1, 32, 64, 32)),
        ((1, 93, 512, 512), (40, 224, 224), 4, (1, 40, 192, 192), (1, 8, 64, 64)),
        ((1, 1, 512, 512), (512, 512), 4, (1, 1, 512, 512), (1, 1, 256, 128)),
    ],
)
def test_golden_chunks_of_nnunet(
    shape: tuple[int, ...],
    patch: tuple[int, ...],
    item_bytes: int,
    chunk: tuple[int, ...],
    block: tuple[int, ...],
) -> None:
    assert chunk_and_block(shape, patch, item_bytes) == (chunk, block)


@pytest.mark.parametrize(
    ("shape", "chunk"),
    [
        ((93, 512, 512), (6, 512, 512)),
        ((36, 50, 35), (36, 50, 35)),
        ((9, 1500, 1500), (2, 768, 768)),
    ],
)
def test_slices_share_a_chunk_but_no_block(
    shape: tuple[int, int, int], chunk: tuple[int, int, int]
) -> None:
    found, block = chunk_and_block((1, *shape), (512, 512), 4)
    assert found == (1, *chunk)
    assert block[1] == 1


@settings(max_examples=100, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 600)] * 3),
    patch=st.one_of(st.tuples(*[st.integers(1, 320)] * 2), st.tuples(*[st.integers(1, 320)] * 3)),
    item_bytes=st.sampled_from([1, 2, 4, 8]),
)
def test_chunks_fit_the_image_and_the_caches(
    shape: tuple[int, int, int], patch: tuple[int, ...], item_bytes: int
) -> None:
    chunk, block = chunk_and_block((3, *shape), patch, item_bytes)
    assert chunk[0] == block[0] == 1
    assert all(1 <= b <= c <= s for b, c, s in zip(block[1:], chunk[1:], shape, strict=True))
    assert np.prod(block) * item_bytes <= 128 * 1024
    assert np.prod(chunk) * item_bytes <= 6 * 1024 * 1024


@pytest.mark.parametrize("kind", [np.float32, np.int16])
@pytest.mark.parametrize(
    ("shape", "patch"),
    [((2, 20, 30, 40), (16, 16, 16)), ((20, 30, 40), (16, 24, 24)), ((1, 1, 50, 60), (32, 32))],
)
def test_contents_come_back(
    tmp_path: Path, kind: type[np.generic], shape: tuple[int, ...], patch: tuple[int, ...]
) -> None:
    array = (RNG.normal(size=shape) * 100).astype(kind)
    path = tmp_path / "folder" / "a.b2nd"
    save_array(array, path, patch=patch)
    stored = open_array(path)
    assert stored.shape == shape
    assert stored.dtype == array.dtype
    np.testing.assert_array_equal(stored[:], array)
    part = (slice(None),) * (len(shape) - 2) + (slice(3, 17), slice(11, 12))
    np.testing.assert_array_equal(stored[part], array[part])
    assert isinstance(stored[part], np.ndarray)
    assert [item.name for item in path.parent.iterdir()] == ["a.b2nd"]


def test_strided_arrays_and_overwriting(tmp_path: Path) -> None:
    array = RNG.normal(size=(6, 5, 4)).astype(np.float32)
    path = tmp_path / "a.b2nd"
    save_array(array, path, patch=(4, 4, 4))
    save_array(array.transpose(2, 0, 1)[::-1], path, patch=(4, 4, 4))
    np.testing.assert_array_equal(open_array(path)[:], array.transpose(2, 0, 1)[::-1])


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.b2nd"
    save_array(np.ones((4, 4, 4), np.float32), path, patch=(4, 4, 4))

    def full(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(blosc2, "asarray", full)
    with pytest.raises(OSError, match="disk full"):
        save_array(np.zeros((4, 4, 4), np.float32), path, patch=(4, 4, 4))
    assert open_array(path)[0, 0, 0] == 1
    assert [item.name for item in tmp_path.iterdir()] == ["a.b2nd"]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_files_are_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "a.b2nd"
    save_array(RNG.normal(size=(20, 20, 20)).astype(np.float32), path, patch=(8, 8, 8))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ImageError, match=r"a\.b2nd"):
        open_array(path)
    with pytest.raises(ImageError, match="missing"):
        open_array(tmp_path / "b.b2nd")


def test_files_that_hold_more_than_an_array_are_refused(tmp_path: Path) -> None:
    plain = tmp_path / "plain.b2nd"
    save_array(np.ones((4, 4, 4), np.float32), plain, patch=(4, 4, 4))
    operand = blosc2.open(str(plain), mode="r")
    lazy = tmp_path / "lazy.b2nd"
    (operand + 1).save(urlpath=str(lazy))
    with pytest.raises(ImageError, match="not a plain"):
        open_array(lazy)
    chunk = tmp_path / "chunk.b2frame"
    blosc2.SChunk(data=b"12345678", urlpath=str(chunk), mode="w", contiguous=True)
    with pytest.raises(ImageError, match="not a plain"):
        open_array(chunk)
