"""Files that an image is read from beside its own: voxels of a header, spacing of a TIFF; digests.

Headers name their files as `ElementDataFile` (MetaImage) or `data file` (NRRD): one file, `LIST`
with a file a line, or a pattern such as `slice%03d.raw 1 20 1`.
"""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from selfseg.io.images import image_ending
from selfseg.io.pictures import TIFF_ENDINGS, spacing_file

_DATA_FILE = {
    ".mhd": re.compile(r"ElementDataFile\s*=\s*(.*)"),
    ".nhdr": re.compile(r"data ?file:\s*(.*)", re.IGNORECASE),
}


def companion_files(path: Path) -> tuple[Path, ...]:
    """Return what an image is read from beside its own file, as far as it is there."""
    ending = image_ending(path)
    if ending in TIFF_ENDINGS:
        found = [spacing_file(path)]
    elif ending in _DATA_FILE and path.is_file():
        found = list(_data_files(path, _DATA_FILE[ending]))
    else:
        found = []
    return tuple(file for file in found if file.is_file())


def digest_image(path: Path) -> str:
    """Return the SHA-256 of an image, in hexadecimal: of its file, as `sha256sum` prints it.

    Where it has companions, of all their digests.
    """
    digests = [_digest_file(file) for file in (path, *companion_files(path))]
    return digests[0] if len(digests) == 1 else hashlib.sha256(repr(digests).encode()).hexdigest()


def _digest_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _data_files(path: Path, pattern: re.Pattern[str]) -> Iterator[Path]:
    """Yield the files that a header names, relative to it."""
    lines = path.read_text("latin-1").splitlines()
    for number, line in enumerate(lines):
        if (named := pattern.match(line)) is None:
            continue
        first = named[1].strip()
        if first.startswith("LIST"):
            yield from (path.parent / name.strip() for name in lines[number + 1 :] if name.strip())
        elif "%" in first:
            numbered = path.parent / first.split()[0]
            names = re.sub(r"%\d*d", "*", glob.escape(numbered.name))
            yield from sorted(numbered.parent.glob(names))
        else:
            yield path.parent / first
        return
