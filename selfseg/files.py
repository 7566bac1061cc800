"""Files that appear whole or not at all, however a program ends; and digests of files."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DIGITS = 16  # of a digest


@contextmanager
def arriving(path: Path) -> Iterator[Path]:
    """Give a path of the same name in a hidden folder beside `path`; move it into place at the end.

    What else was written into that folder is moved as well, the file itself last: it may refer to
    the others (.raw of .mhd). After an error nothing is moved.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield folder / path.name
        for written in sorted(folder.iterdir(), key=lambda item: item.name == path.name):
            written.replace(path.parent / written.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def file_digest(path: Path) -> str:
    """Return a digest of a file's content; '' if there is no such file."""
    if not path.is_file():
        return ""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:DIGITS]


def forget_unfinished(*paths: Path) -> None:
    """Remove what a killed program left of these files; only for who alone writes them."""
    for path in paths:
        for folder in path.parent.glob(f".{path.name}.*"):
            if folder.is_dir():
                shutil.rmtree(folder, ignore_errors=True)


def forget_folder(folder: Path) -> None:
    """Remove a folder at one stroke: after a kill it is there as it was, or not at all."""
    trash = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(trash, ignore_errors=True)
    if folder.exists():
        folder.rename(trash)
        shutil.rmtree(trash, ignore_errors=True)
