"""What is to be classified: a label or region of which masks, and the files of every case."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from selfseg.errors import DatasetError
from selfseg.evaluation.files import label_maps
from selfseg.evaluation.labels import declared_targets
from selfseg.io.images import IMAGE_ENDINGS
from selfseg.io.matching import images_of
from selfseg.records.classification import RegionOfInterest, Unit
from selfseg.words import counted

log = logging.getLogger(__name__)

SHOWN = 12  # findings in one message
WHICH_LESIONS = "say with --region in which label 'selfseg measure' has numbered them"


@dataclass(frozen=True)
class RegionFiles:
    """The files of one case, and what is classified in it.

    Attributes:
        lesions: Numbers of the wanted components; None: all of them.
    """

    id: str
    mask: Path
    images: tuple[Path, ...]
    region: RegionOfInterest
    unit: Unit
    lesions: frozenset[int] | None = None


def region_of_interest(
    masks: Sequence[Path], asked: str | None, unit: Unit = "case", *, images: Path | None = None
) -> RegionOfInterest:
    """Return the part of the masks that a name or a value means; None means all of it.

    Args:
        masks: Their folders; a dataset.json there or one folder up says what values are called.
        asked: Label, region or value.
        unit: Whether a case is one region, or each of its components.
        images: Their folder. Beside predictions there is no dataset.json; they have the values
            that the data set of the images declares.

    Raises:
        DatasetError: No such label or region; or lesions are wanted, whose numbers mean nothing
            without the label that they are counted in.
    """
    beside = () if asked is None or images is None else (images,)
    declared = (declared_targets(folder) for folder in (*masks, *beside))
    targets = next((found for found in declared if found is not None), None)
    if asked is None:
        if unit == "lesion" and targets is not None and len(targets.names) > 1:
            raise DatasetError(
                f"lesions of which label? The masks have {', '.join(targets.names)}",
                remedy=f"{WHICH_LESIONS.capitalize()}.",
            )
        # What is not annotated is no part of a lesion.
        values = () if targets is None else tuple(label.value for label in targets.labels)
        return RegionOfInterest(name="foreground", values=values)
    if targets is not None and asked in targets.names:
        members = targets.members[targets.names.index(asked)]
        values = tuple(targets.labels[index - 1].value for index in members)
        return RegionOfInterest(name=asked, values=values)
    if asked.isdecimal() and int(asked) > 0:
        return RegionOfInterest(name=asked, values=(int(asked),))
    names = ", ".join(targets.names) if targets is not None else "none declared"
    raise DatasetError(
        f"--region {asked}: neither a label of the masks ({names}) nor a value above 0",
        remedy="Name a label or region of dataset.json, or give its value in the masks.",
    )


def find_files(
    masks: Sequence[Path],
    images: Path,
    region: RegionOfInterest,
    unit: Unit,
    wanted: Mapping[str, Collection[int]] | None = None,
) -> tuple[RegionFiles, ...]:
    """Return the files of every case that has a mask.

    Args:
        masks: Their folders: one, or those of the validation cases of several folds.
        images: Their folder.
        region: Part of the masks.
        unit: Whether a case is one region, or each of its components.
        wanted: Cases and lesion numbers that are labeled; None: all cases and lesions.

    Raises:
        DatasetError: A wanted case without a mask, a case without an image; all of them.
    """
    maps = _mask_files(masks)
    names = sorted(maps if wanted is None else wanted)
    _refuse_missing(masks, names, maps)
    _tell_unused(sorted(maps.keys() - set(names)), len(maps))
    found = images_of(images, names)
    return tuple(
        RegionFiles(
            id=name,
            mask=maps[name],
            images=found[name],
            region=region,
            unit=unit,
            lesions=None if wanted is None or unit == "case" else frozenset(wanted[name]),
        )
        for name in names
    )


def _refuse_missing(masks: Sequence[Path], names: Sequence[str], maps: Mapping[str, Path]) -> None:
    missing = [name for name in names if name not in maps]
    if names and not missing:
        return
    complaints = [f"case {name}: no mask {name}.*" for name in missing[:SHOWN]]
    complaints += [f"and {len(missing) - SHOWN} more"] if len(missing) > SHOWN else []
    raise DatasetError(
        f"{masks[0]}: {len(missing) or 'all'} masks are missing",
        complaints=complaints,
        remedy=f"Name masks as the cases ({', '.join(IMAGE_ENDINGS[:3])}, …).",
    )


def _tell_unused(unused: Sequence[str], count: int) -> None:
    """Say which of all masks are not used, because no line of the labels names them."""
    if unused:
        more = f" and {len(unused) - SHOWN} more" if len(unused) > SHOWN else ""
        log.info(
            "%d of %d masks have no line in the labels and are not used: %s%s",
            len(unused), count, ", ".join(unused[:SHOWN]), more,
        )  # fmt: skip


def _mask_files(folders: Sequence[Path]) -> dict[str, Path]:
    """Return the label maps of several folders by case."""
    found: dict[str, Path] = {}
    twice = []
    for folder in folders:
        maps = label_maps(folder)
        twice += [f"case {name}: {found[name]} and {maps[name]}" for name in maps if name in found]
        found |= maps
    if twice:
        raise DatasetError(
            f"two masks of {counted(len(twice), 'case')}",
            complaints=twice[:SHOWN],
            remedy="Give each case's mask once: that of the fold that did not train on it.",
        )
    return found
