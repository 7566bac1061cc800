"""Zip archives from elsewhere: checked for paths that lead out, links and size, then unpacked."""

from __future__ import annotations

import re
import shutil
import stat
import zipfile
from pathlib import Path, PurePosixPath

from selfseg.errors import ModelError

# Far above any published model; what an archive says it holds is all that is ever written.
LARGEST_GIB = 64.0
MOST_ENTRIES = 100_000
# Weights hardly shrink and JSON shrinks twenty times; more is an archive that is to fill a disk.
LARGEST_RATIO = 200.0

# Of these zipfile never takes more into memory than was asked for; of others it does.
METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}

ORIGINAL = "Do not use this file; ask its maker for another."


def unpack(archive: Path, folder: Path) -> None:
    """Write all files of a zip archive into a folder.

    Raises:
        ModelError: It is no zip archive, is damaged, or holds links, paths that lead out of the
            folder, or more than fits.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = opened.infolist()
            _check(archive, entries, folder)
            for entry in entries:
                if entry.is_dir():
                    continue
                target = folder / entry.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(entry) as source, target.open("xb") as stream:
                    shutil.copyfileobj(source, stream, 1 << 20)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise ModelError(
            f"{archive}: no readable zip archive ({error})", remedy="Copy the file again."
        ) from error


def _check(archive: Path, entries: list[zipfile.ZipInfo], folder: Path) -> None:
    """Refuse an archive before anything is written."""
    total = sum(entry.file_size for entry in entries)
    packed = archive.stat().st_size  # entries may share bytes, so theirs do not add up
    methods = {entry.compress_type for entry in entries} - METHODS
    names = [entry.filename.rstrip("/").casefold() for entry in entries]
    leading_out = [entry.filename for entry in entries if not _stays_inside(entry.filename)]
    links = [entry.filename for entry in entries if stat.S_ISLNK(entry.external_attr >> 16)]
    findings = (
        (bool(leading_out), f"has paths that lead out of it: {leading_out[:3]}"),
        (bool(links), f"has links: {links[:3]}"),
        (len(set(names)) < len(names), "has two files of one name"),
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


def _stays_inside(name: str) -> bool:
    """Tell whether a path of an archive is a plain one, on every system."""
    path = PurePosixPath(name)
    plain = not re.search(r"[\\:\x00-\x1f]", name)
    return plain and bool(path.parts) and not path.is_absolute() and ".." not in path.parts
