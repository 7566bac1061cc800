"""Images and label maps that belong together by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from selfseg.errors import DatasetError
from selfseg.io.images import IMAGE_ENDINGS, case_name

CHANNEL = re.compile(r"(.+)_(\d{4})")


def images_of(folder: Path, cases: Iterable[str]) -> dict[str, tuple[Path, ...]]:
    """Return the images of each case: `CASE.ext` with all channels, or `CASE_0000.ext` and on.

    Raises:
        DatasetError: No such folder; cases without an image, with two, or with a gap between
            channels; all of them at once.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder", remedy="Give the folder of the images.")
    whole: dict[str, list[Path]] = {}
    channels: dict[str, dict[int, Path]] = {}
    for path in sorted(folder.iterdir()):
        if not path.is_file() or not path.name.lower().endswith(IMAGE_ENDINGS):
            continue
        name = case_name(path)
        whole.setdefault(name, []).append(path)
        match = CHANNEL.fullmatch(name)
        if match is not None:
            channels.setdefault(match[1], {})[int(match[2])] = path
    found, complaints = {}, []
    for case in cases:
        numbered = channels.get(case, {})
        parts = tuple(numbered[index] for index in sorted(numbered))
        paths = tuple(whole.get(case, ())) or parts
        if not paths:
            complaints.append(f"case {case}: no image {case}.* or {case}_0000.* in {folder.name}")
        elif len(paths) > 1 and (paths is not parts or list(numbered) != list(range(len(parts)))):
            there = ", ".join(path.name for path in paths)
            complaints.append(f"case {case}: cannot tell its image from {there}; keep one")
        else:
            found[case] = paths
    if complaints:
        raise DatasetError(
            f"{folder}: images do not fit the masks",
            complaints=complaints,
            remedy="Name images as their masks, with _0000, _0001, … for channels.",
        )
    return found
