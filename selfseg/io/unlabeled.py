"""Cases without a reference: those of a folder of images, or the one that an image belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from selfseg.errors import DatasetError
from selfseg.io.case_files import (
    NUMBERED,
    FoundCase,
    case_and_channel,
    case_complaints,
    case_record,
    group_images,
    image_files,
    other_files,
)
from selfseg.io.images import IMAGE_ENDINGS, case_name, image_ending
from selfseg.records.dataset import Case
from selfseg.words import counted


def list_cases(source: Path, num_channels: int) -> tuple[Case, ...]:
    """Return the cases to predict in a folder, or the case that one image belongs to.

    `CASE_0000.ext`, `CASE_0001.ext`, … are the channels of CASE; a file without a channel number
    below `num_channels` is a case of its own that holds all channels. Paths are absolute.

    Raises:
        DatasetError: No images, or missing channels; all complaints at once.
    """
    source = source.resolve()
    complaints: list[str] = []
    if source.is_dir():
        found = group_images(image_files(source, IMAGE_ENDINGS), num_channels, complaints)
        if not found:
            raise DatasetError(
                f"{source}: no images in this folder{other_files(source)}",
                remedy=f"Supported endings: {' '.join(IMAGE_ENDINGS)}.",
            )
    elif source.is_file() and image_ending(source):
        found = _around(source, num_channels, complaints)
    else:
        finding = "format not supported" if source.exists() else "no such file or folder"
        raise DatasetError(
            f"{source}: {finding}",
            remedy=f"Give a folder or an image with one of {' '.join(IMAGE_ENDINGS)}.",
        )
    surplus = _surplus(found, num_channels)
    complaints += _surplus_complaints(surplus, num_channels)
    names = tuple(f"channel {number}" for number in range(num_channels))
    others = [item for item in found if not any(item in files for files in surplus.values())]
    complaints += case_complaints(others, names, labeled=False)
    if complaints:
        raise DatasetError(
            f"{source}: images to predict are incomplete",
            complaints=complaints,
            remedy="Add what is missing, or move these files elsewhere.",
        )
    return tuple(case_record(item, None) for item in sorted(found, key=lambda item: item.id))


def _around(source: Path, num_channels: int, complaints: list[str]) -> list[FoundCase]:
    """Return the case of one image: with the other channels beside it if it is numbered."""
    numbered = case_and_channel(source, num_channels)
    if numbered is None:
        return [FoundCase(case_name(source), (source,), None)]
    siblings = [
        path
        for path in image_files(source.parent, (image_ending(source),))
        if (match := NUMBERED.fullmatch(case_name(path))) and match[1] == numbered[0]
    ]
    return group_images(siblings, num_channels, complaints)


def _surplus(found: Sequence[FoundCase], num_channels: int) -> dict[str, list[FoundCase]]:
    """Return what is numbered like a further channel of another case, by that case."""
    known = {item.id for item in found}
    surplus: dict[str, list[FoundCase]] = {}
    for item in found:
        match = NUMBERED.fullmatch(item.id)
        if match is not None and match[1] in known and int(match[2]) >= num_channels:
            surplus.setdefault(match[1], []).append(item)
    return surplus


def _surplus_complaints(surplus: Mapping[str, Sequence[FoundCase]], num_channels: int) -> list[str]:
    return [
        f"case {case}: the model has {counted(num_channels, 'channel')}, but "
        f"there is also {', '.join(sorted(item.images[0].name for item in items))}; move these "
        "files elsewhere"
        for case, items in surplus.items()
    ]
