"""Image files gathered into cases, what is missing of them, and their records."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from selfseg.io.images import IMAGE_ENDINGS, case_name, image_ending
from selfseg.records.dataset import Case, File

IMAGES = "imagesTr"
LABELS = "labelsTr"
NUMBERED = re.compile(r"(.+)_(\d{4})")


@dataclass(frozen=True)
class FoundCase:
    """Files of a case before they are checked."""

    id: str
    images: tuple[Path, ...]
    reference: Path | None


def group_images(
    files: Iterable[Path], num_channels: int, complaints: list[str]
) -> list[FoundCase]:
    """Gather files by case; a number is a channel's if there is such a channel."""
    cases: dict[str, dict[int, Path]] = {}
    for path in files:
        name, channel = case_and_channel(path, num_channels) or (case_name(path), 0)
        others = cases.setdefault(name, {})
        if channel in others:
            complaints.append(
                f"{path.parent.name}/{path.name}: second file for channel {channel} of case "
                f"{name} besides {others[channel].name}; remove one"
            )
        others.setdefault(channel, path)
    return [
        FoundCase(name, tuple(channels[number] for number in sorted(channels)), None)
        for name, channels in cases.items()
    ]


def case_and_channel(path: Path, num_channels: int) -> tuple[str, int] | None:
    """Return case and channel of `CASE_0000.ext`, or None if the number is no channel's."""
    match = NUMBERED.fullmatch(case_name(path))
    if match is None or int(match[2]) >= num_channels:
        return None
    return match[1], int(match[2])


def case_complaints(
    found: Sequence[FoundCase], channels: Sequence[str], *, labeled: bool
) -> list[str]:
    """Return what is missing: channels, images, label maps, files."""
    complaints = []
    # One file may hold all channels, but then every case must be stored like that.
    allowed = {len(channels)} | ({1} if all(len(item.images) <= 1 for item in found) else set())
    for item in found:
        if not item.images:
            label = item.reference.name if item.reference else ""
            complaints.append(
                f"case {item.id}: label map {label} without images; add {item.id}_0000… to "
                f"{IMAGES} or remove the label map"
            )
        elif channels and len(item.images) not in allowed:
            files = ", ".join(path.name for path in item.images)
            complaints.append(
                f"case {item.id}: {len(item.images)} of {len(channels)} channels "
                f"({', '.join(channels)}): {files}; add the missing files"
            )
        if labeled and item.reference is None:
            complaints.append(
                f"case {item.id}: image {item.images[0].name} without label map; add {item.id} to "
                f"{LABELS} or move the image to imagesTs"
            )
        complaints += _file_complaints(item)
    return complaints


def _file_complaints(item: FoundCase) -> list[str]:
    complaints = []
    for path in (*item.images, *([item.reference] if item.reference else [])):
        if not path.is_file():
            complaints.append(f"case {item.id}: {path} does not exist; add it")
        elif not image_ending(path):
            complaints.append(
                f"case {item.id}: {path} has no supported ending ({' '.join(IMAGE_ENDINGS)}); "
                "convert it"
            )
        elif path.stat().st_size == 0:
            complaints.append(f"case {item.id}: {path} is empty; copy it again")
    return complaints


def case_record(item: FoundCase, root: Path | None) -> Case:
    """Return the record of a case, its files relative to root where they lie inside."""
    return Case(
        id=item.id,
        images=tuple(_file(path, root) for path in item.images),
        reference=_file(item.reference, root) if item.reference else None,
    )


def _file(path: Path, root: Path | None) -> File:
    """Return the record of a file, relative to root where it lies inside; digest is empty."""
    inside = root is not None and path.is_relative_to(root)
    name = path.relative_to(root).as_posix() if root is not None and inside else str(path)
    if not path.is_file():
        return File(path=name)
    facts = path.stat()
    return File(path=name, size=facts.st_size, modified_ns=facts.st_mtime_ns)


def image_files(folder: Path, endings: Collection[str]) -> list[Path]:
    """Return the visible files with one of the endings, sorted; none where there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if image_ending(path) in endings and not path.name.startswith(".") and path.is_file()
    )


def other_files(folder: Path) -> str:
    """Return ` (there are: .png, .csv)` as a hint, or that the folder is missing."""
    if not folder.is_dir():
        return " (the folder does not exist)"
    endings = {
        image_ending(path) or path.suffix or path.name
        for path in folder.iterdir()
        if not path.name.startswith(".")
    }
    return f" (there are: {', '.join(sorted(endings)[:6])})" if endings else " (it is empty)"
