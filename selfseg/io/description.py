"""The `dataset.json` of nnU-Net v2 and of the Medical Segmentation Decathlon."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from selfseg.errors import DatasetError
from selfseg.io.images import IMAGE_ENDINGS
from selfseg.io.targets import read_targets
from selfseg.records.dataset import Targets

DESCRIPTION = "dataset.json"

# A name becomes a folder of the workspace.
_SAFE_NAME = re.compile(r"[^/\\:*?\"<>|\x00-\x1f]+")


@dataclass(frozen=True)
class Description:
    """What dataset.json says; `complaints` are all findings about it.

    Attributes:
        name: `name`, else the folder's name.
        channels: Channel names in order.
        targets: Labels, regions, ignore.
        image_endings, label_endings: Endings that count as images, as label maps.
        content: The whole object, for the parts that belong to a layout.
        complaints: One line each.
    """

    name: str
    channels: tuple[str, ...]
    targets: Targets
    image_endings: tuple[str, ...]
    label_endings: tuple[str, ...]
    content: Mapping[str, object]
    complaints: list[str] = field(default_factory=list)


def read_description(root: Path) -> Description:
    """Read and check `dataset.json`; findings about its content are collected, not raised.

    Raises:
        DatasetError: There is no such file, or it is not a JSON object.
    """
    complaints: list[str] = []
    content = _content(root, complaints)
    name = content.get("name", root.resolve().name)
    if not isinstance(name, str) or not _SAFE_NAME.fullmatch(name) or set(name) <= {".", " "}:
        complaints.append(f"{DESCRIPTION}: name {name!r} cannot be a folder's name; choose another")
        name = root.resolve().name
    image_endings, label_endings = _endings(content.get("file_ending"), complaints)
    return Description(
        name=name,
        channels=read_channels(content, complaints),
        targets=read_targets(content, complaints),
        image_endings=image_endings,
        label_endings=label_endings,
        content=content,
        complaints=complaints,
    )


def _content(root: Path, complaints: list[str]) -> dict[str, object]:
    path = root / DESCRIPTION

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        names = [key for key, _ in pairs]
        doubled = sorted({key for key in names if names.count(key) > 1})
        complaints.extend(f"{DESCRIPTION}: key {key!r} stands twice; keep one" for key in doubled)
        return dict(pairs)

    remedy = "datasets.md shows the two layouts and what dataset.json must hold."
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=unique)
    except FileNotFoundError as error:
        finding = "no dataset.json in it" if root.is_dir() else "no such folder"
        raise DatasetError(f"{root}: {finding}", remedy=remedy) from error
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: cannot be read ({error})", remedy=remedy) from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: not a JSON object", remedy=remedy)
    return content


def read_channels(content: Mapping[str, object], complaints: list[str]) -> tuple[str, ...]:
    """Return the channel names of `channel_names`, else of `modality`."""
    key = "channel_names" if "channel_names" in content else "modality"
    names = content.get(key)
    example = f'"{key}": {{"0": "CT"}}'
    if not isinstance(names, dict) or not names:
        complaints.append(
            f"{DESCRIPTION}: needs 'channel_names' (or 'modality') that maps each channel's number "
            f"to its name; write {example}"
        )
        return ()
    numbers = [str(number) for number in range(len(names))]
    if set(names) == set(numbers) and all(isinstance(names[n], str) and names[n] for n in numbers):
        return tuple(str(names[number]) for number in numbers)
    if sorted(map(str, names.values())) == sorted(numbers):
        turned = {str(number): name for name, number in names.items()}
        complaints.append(
            f"{DESCRIPTION}: '{key}' is the wrong way round (name to number); "
            f"write {json.dumps(dict(sorted(turned.items())))}"
        )
        return tuple(turned[number] for number in numbers)
    complaints.append(
        f"{DESCRIPTION}: '{key}' must number the channels 0, 1, … without gaps and give each a "
        f"name, but its keys are {', '.join(map(repr, names))}; write {example}"
    )
    return ()


def _endings(declared: object, complaints: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the endings of images and of label maps; all known ones where none is declared."""
    both = declared if isinstance(declared, dict) else {"image": declared, "label": declared}
    unknown_keys = sorted(set(both) - {"image", "label"})
    if unknown_keys:
        complaints.append(
            f"{DESCRIPTION}: 'file_ending' has unknown keys {unknown_keys}; "
            'write one ending, or {"image": ".jpg", "label": ".png"}'
        )
    image, label = (_one_ending(both.get(key), complaints) for key in ("image", "label"))
    return image, label


def _one_ending(declared: object, complaints: list[str]) -> tuple[str, ...]:
    if declared is None:
        return IMAGE_ENDINGS
    ending = declared.lower() if isinstance(declared, str) else ""
    ending = ending if ending.startswith(".") else f".{ending}"
    if ending in IMAGE_ENDINGS:
        return (ending,)
    complaint = (
        f"{DESCRIPTION}: 'file_ending' {declared!r} is not supported; "
        f"supported: {' '.join(IMAGE_ENDINGS)}"
    )
    if complaint not in complaints:
        complaints.append(complaint)
    return IMAGE_ENDINGS
