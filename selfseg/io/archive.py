"""Zip archives from elsewhere: checked for paths that lead out, links and size, then unpacked."""

from __future__ import annotations

import errno
import re
import shutil
import stat
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from selfseg.errors import ModelError

# Far above any published model; what an archive says it holds is all that is ever written.
LARGEST_GIB = 64.0
MOST_ENTRIES = 100_000
# Weights hardly shrink and JSON shrinks twenty times; more is an archive that is to fill a disk.
LARGEST_RATIO = 200.0

# Of these zipfile never takes more into memory than was asked for; of others it does.
METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}

# In bytes; file systems take no longer names, and some systems no longer paths.
LONGEST_PART, LONGEST_NAME = 255, 1000

# What zipfile raises where bytes are not those of an archive.
DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    ValueError,
)

ORIGINAL = "Do not use this file; ask its maker for another."


@contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive for reading.

    Raises:
        ModelError: It is no zip archive, or what is read of it is damaged.
    """
    try:
        with zipfile.ZipFile(archive) as stream:
            yield stream
    except (*DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # a place before the start
            raise
        raise ModelError(
            f"{archive}: no readable zip archive ({error})", remedy="Copy the file again."
        ) from error


def unpack(archive: Path, folder: Path) -> None:
    """Write all files of a zip archive into an empty folder.

    Raises:
        ModelError: It is no zip archive, is damaged, or holds links, paths that lead out of the
            folder or that no folder can hold, or more than fits.
    """
    with _opened(archive) as stream:
        entries = stream.infolist()
        _check(archive, entries, folder)
        for entry in entries:
            if _is_folder(entry):
                continue
            target = folder / entry.filename
            target.parent.mkdir(parents=True, exist_ok=True)
            with stream.open(entry) as source, target.open("xb") as written:
                shutil.copyfileobj(source, written, 1 << 20)


def _check(archive: Path, entries: list[zipfile.ZipInfo], folder: Path) -> None:
    """Refuse an archive before anything is written."""
    total = sum(entry.file_size for entry in entries)
    packed = archive.stat().st_size  # entries may share bytes, so theirs do not add up
    methods = {entry.compress_type for entry in entries} - METHODS
    leading_out = [entry.filename for entry in entries if not _stays_inside(entry.filename)]
    links = [entry.filename for entry in entries if stat.S_ISLNK(entry.external_attr >> 16)]
    findings = (
        (bool(leading_out), f"has paths that lead out of it: {leading_out[:3]}"),
        (bool(links), f"has links: {links[:3]}"),
        *_name_findings(entries),
        (len(entries) > MOST_ENTRIES, f"has {len(entries)} entries, at most {MOST_ENTRIES}"),
        (total > LARGEST_GIB * 2**30, f"holds {total / 2**30:.1f} GiB, at most {LARGEST_GIB:g}"),
        (bool(methods), f"is compressed by methods {sorted(methods)}, must be {sorted(METHODS)}"),
        (
            total > LARGEST_RATIO * max(packed, 1),
            f"holds {total / max(packed, 1):.0f} times its size",
        ),
    )
    for wrong, finding in findings:
        if wrong:
            raise ModelError(f"{archive}: {finding}", remedy=ORIGINAL)
    free = shutil.disk_usage(folder).free
    if total > free:
        raise ModelError(
            f"{archive}: needs {total / 2**30:.1f} GiB, but {folder} has {free / 2**30:.1f}",
            remedy="Make room, or choose another folder.",
        )


def _name_findings(entries: Sequence[zipfile.ZipInfo]) -> tuple[tuple[bool, str], ...]:
    """Return whether names are too long, given twice, or those of a file and of a folder."""
    paths = [_parts(entry.filename) for entry in entries]
    counts = Counter(paths)
    files = {path for path, entry in zip(paths, entries, strict=True) if not _is_folder(entry)}
    folders = {path[:end] for path in counts for end in range(1, len(path))}
    long = [entry.filename for entry in entries if _is_long(entry.filename)]
    return (
        (bool(long), f"has names that are too long: {long[0][:40] if long else ''}…"),
        (len(counts) < len(paths), "has two files of one name"),
        (bool(files & folders), f"has files that are folders too: {_shown(files & folders)}"),
    )


def _is_folder(entry: zipfile.ZipInfo) -> bool:
    return entry.filename.endswith("/")  # zipfile's own test fails where there is no name


def _parts(name: str) -> tuple[str, ...]:
    """Return the parts of a path in one form of letters, accents and case for every system."""
    return PurePosixPath(unicodedata.normalize("NFC", name).casefold()).parts


def _is_long(name: str) -> bool:
    parts = (name, *PurePosixPath(name).parts)
    sizes = [len(part.encode("utf-8", "surrogatepass")) for part in parts]
    return sizes[0] > LONGEST_NAME or max(sizes[1:], default=0) > LONGEST_PART


def _shown(paths: set[tuple[str, ...]]) -> list[str]:
    return ["/".join(path) for path in sorted(paths)[:3]]


def _stays_inside(name: str) -> bool:
    """Tell whether a path of an archive is a plain one, on every system."""
    path = PurePosixPath(name)
    plain = not re.search(r"[\\:\x00-\x1f]", name)
    return plain and bool(path.parts) and not path.is_absolute() and ".." not in path.parts
