"""Zip archives from elsewhere: what leads out, fills a disk or is damaged is refused."""

from __future__ import annotations

import copy
import random
import zipfile
from pathlib import Path

import pytest

from selfseg.bundles import is_bundle, unpack_bundle
from selfseg.errors import ModelError, SelfSegError
from selfseg.io.archive import unpack
from selfseg.io.nnunet.checkpoint import check_archive


def write_overlapping(path: Path) -> None:
    """Write an archive whose thousand entries are the same bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0", random.Random(0).randbytes(1 << 10) + bytes(100 << 10))
        first = archive.filelist[0]
        for index in range(1, 1000):
            other = copy.copy(first)
            other.filename = str(index)
            archive.filelist.append(other)


def test_archives_that_lead_out_are_links_or_bombs_are_refused(tmp_path: Path) -> None:
    path, folder = tmp_path / "x.zip", tmp_path / "out"
    folder.mkdir()
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    bad: list[tuple[str | zipfile.ZipInfo, bytes, str]] = [
        ("../evil", b"1", "lead out"),
        ("/evil", b"1", "lead out"),
        ("a/../../evil", b"1", "lead out"),
        ("a\\..\\evil", b"1", "lead out"),
        ("C:evil", b"1", "lead out"),
        (link, b"/etc/passwd", "links"),
        ("bomb", bytes(10 << 20), "times its size"),
    ]
    for name, content, finding in bad:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("good", b"1")
            archive.writestr(name, content, zipfile.ZIP_DEFLATED)
        with pytest.raises(ModelError, match=finding):
            unpack(path, folder)
        assert not any(folder.iterdir())
        assert not (tmp_path / "evil").exists()
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("weights", b"1" * 100)
        with pytest.raises(ModelError, match="compressed by methods"):
            unpack(path, folder)
    write_overlapping(path)
    with pytest.raises(ModelError, match="times its size"):
        unpack(path, folder)
    path.write_bytes(b"no zip")
    with pytest.raises(ModelError, match="no readable zip"):
        unpack(path, folder)
    with zipfile.ZipFile(path, "w") as archive:
        archive.mkdir("a")
        archive.writestr("a/good", b"1")
        archive.writestr("a/" + "b" * 255, b"2")
    unpack(path, folder)
    assert (folder / "a" / "good").read_bytes() == b"1"
    assert len(list((folder / "a").iterdir())) == 2


def test_an_entry_without_a_name_is_refused(tmp_path: Path) -> None:
    path, folder = tmp_path / "x.zip", tmp_path / "out"
    folder.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good", b"1")
        archive.writestr("none", b"1")
        archive.filelist[1].filename = ""
    with pytest.raises(ModelError, match="lead out"):
        unpack(path, folder)


@pytest.mark.parametrize(
    ("names", "finding"),
    [
        (("a", "a/b"), "folders too"),
        (("a/b", "a"), "folders too"),
        (("a/b/c", "A//B"), "folders too"),
        (("a/b", "a//b"), "two files"),
        (("a/b", "./a/B"), "two files"),
        (("\u00e9", "e\u0301"), "two files"),
        (("a" * 300,), "too long"),
        (("a/" + "\u00e9" * 128,), "too long"),
        (("/".join("a" * 600),), "too long"),
    ],
)
def test_names_that_no_folder_can_hold_are_refused(
    tmp_path: Path, names: tuple[str, ...], finding: str
) -> None:
    path, folder = tmp_path / "x.zip", tmp_path / "out"
    folder.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"1")
    with pytest.raises(ModelError, match=finding) as caught:
        unpack(path, folder)
    assert caught.value.remedy
    assert not any(folder.iterdir())


def remedy_of(path: Path, folder: Path, *, bundle: bool) -> str:
    """Return what is told where an archive is refused; any other error is none of ours."""
    folder.mkdir()
    try:
        is_bundle(path)
        if bundle:
            unpack_bundle(path, folder)
        else:
            unpack(path, folder)
            check_archive(path)
    except SelfSegError as error:
        return error.remedy or "none"
    return ""


def test_changed_bytes_are_told_as_such(tmp_path: Path) -> None:
    """Wherever they lie: in deflated content, in a name, in an offset, in a version."""
    draw, path = random.Random(0), tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("plan.json", b'{"a": 1}' * 20)
        archive.writestr("\u00e9/b", bytes(range(256)))
    whole, told = path.read_bytes(), set()
    for index in range(len(whole)):
        changed = bytearray(whole)
        changed[index] ^= draw.randrange(1, 256)
        path.write_bytes(changed)
        for bundle in (False, True):
            told.add(remedy_of(path, tmp_path / f"{index}{bundle}", bundle=bundle))
    assert "Copy the file again." in told
    assert "none" not in told
