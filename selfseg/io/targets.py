"""What `labels` of a dataset.json declares: labels, regions of them, and what is not annotated."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from selfseg.records.dataset import Label, Region, Targets

IGNORE = "ignore"
ORDER = "regions_class_order"

Entry = tuple[str, tuple[int, ...]]  # a name and its values


def read_targets(content: Mapping[str, object], complaints: list[str]) -> Targets:
    """Return what a dataset.json declares; findings are added to `complaints`, one line each.

    Names to values (nnU-Net v2) and values to names (Medical Segmentation Decathlon) are read. As
    soon as one name has several values all are regions, and `regions_class_order` says which value
    each of them writes.
    """
    labels = content.get("labels")
    if not isinstance(labels, dict) or not labels:
        complaints.append(
            "dataset.json: needs 'labels' that maps names to values; "
            'write "labels": {"background": 0, "tumor": 1}'
        )
        return Targets(labels=())
    before = len(complaints)
    entries = _entries(labels, complaints)
    ignore = next((values[0] for name, values in entries if name == IGNORE), None)
    named = [entry for entry in entries if entry[0] != IGNORE]
    has_regions = any(len(values) > 1 for _, values in named)
    complaints += _doubles(named, ignore)
    if not named and len(complaints) == before:
        complaints.append("dataset.json: 'labels' has no label besides background; add one")
    regions: tuple[Region, ...] = ()
    if has_regions:
        regions = _regions(named, content.get(ORDER), complaints)
    return Targets(labels=_labels(named), regions=regions, ignore=ignore)


def _entries(labels: Mapping[str, object], complaints: list[str]) -> list[Entry]:
    """Return the names with their values, without background; what is wrong is left out."""
    found: list[Entry] = []
    for key, entry in labels.items():
        turned = key.isdecimal() and isinstance(entry, str)
        name, given = (str(entry), key) if turned else (key, entry)
        values = _values(given)
        complaint = _complaint(name, given, values)
        if not complaint and any(name == other for other, _ in found):
            complaint = "stands twice; keep one"
        if complaint:
            complaints.append(f"dataset.json: label {name!r} {complaint}")
        elif values != (0,):
            found.append((name, values))
    return found


def _complaint(name: str, given: object, values: tuple[int, ...]) -> str:
    """Return what is wrong with one entry, or an empty string."""
    if not values or min(values) < 0:
        return (
            f"has value {given!r}; give a whole number, 0 for background, or a list of positive "
            "ones for a region"
        )
    if len(values) > 1 and (0 in values or len(set(values)) < len(values)):
        return f"is a region of the values {given}; give positive ones, each once"
    if name == "background" and values != (0,):
        return f"has value {_shown(values)}; background must be 0 here and in the label files"
    if name == IGNORE and (len(values) > 1 or values == (0,)):
        return f"has value {given!r}; give one positive whole number that no label has"
    return "" if name else f"(value {_shown(values)}) has no name; give it one"


def _doubles(entries: Sequence[Entry], ignore: int | None) -> list[str]:
    """Complain of names with equal values, and of labels that count as not annotated."""
    complaints = []
    for index, (name, values) in enumerate(entries):
        same = [other for other, those in entries[:index] if set(those) == set(values)]
        if same:
            complaints.append(
                f"dataset.json: label {name!r} has the same value ({_shown(values)}) as "
                f"{same[0]!r}; give each label its own"
            )
        if ignore in values:
            complaints.append(
                f"dataset.json: label {name!r} has the value {ignore}, which 'ignore' marks as not "
                "annotated; give 'ignore' a value of its own"
            )
    return complaints


def _labels(entries: Sequence[Entry]) -> tuple[Label, ...]:
    """Return a label for each value, named by the entry that has just this value."""
    names = {values[0]: name for name, values in reversed(entries) if len(values) == 1}
    every = sorted({value for _, values in entries for value in values})
    return tuple(Label(name=names.get(value, f"value {value}"), value=value) for value in every)


def _regions(entries: Sequence[Entry], order: object, complaints: list[str]) -> tuple[Region, ...]:
    """Pair the regions with the values that they write."""
    names = ", ".join(name for name, _ in entries)
    example = json.dumps([min(values) for _, values in entries])
    written = order if isinstance(order, list) else []
    if not all(_number(value) is not None for value in written) or len(written) != len(entries):
        found = "is missing" if order is None else f"is {json.dumps(order)}"
        complaints.append(
            f"dataset.json: '{ORDER}' {found}; with regions it must give one value for each of "
            f"{names}, in this order (later ones overwrite earlier), for example {example}"
        )
        return ()
    regions = []
    for (name, values), value in zip(entries, written, strict=True):
        if value not in values:
            complaints.append(
                f"dataset.json: '{ORDER}' gives region {name!r} the value {value}, which is none "
                f"of its own ({_shown(values)}); what it writes would not count as {name!r}"
            )
        regions.append(Region(name=name, values=values, value=_number(value) or 0))
    doubled = sorted({value for value in written if written.count(value) > 1})
    if doubled:
        complaints.append(
            f"dataset.json: '{ORDER}' gives the value {_shown(doubled)} to several regions, which "
            "could not be told apart in a label map; give each its own"
        )
    complaints += _order_complaints(regions)
    return tuple(regions)


def _order_complaints(regions: Sequence[Region]) -> list[str]:
    """Complain of regions that no label map could show, as a later one around them overwrites."""
    complaints = []
    for index, region in enumerate(regions):
        own = set(region.values)
        around = next((r.name for r in regions[index + 1 :] if own < set(r.values)), None)
        if around is not None:
            complaints.append(
                f"dataset.json: region {region.name!r} lies within {around!r}, which stands later "
                f"and would overwrite it; declare {around!r} first, in 'labels' and '{ORDER}'"
            )
    return complaints


def _values(given: object) -> tuple[int, ...]:
    """Return the value or values of an entry; empty if they are no whole numbers."""
    numbers = [_number(value) for value in (given if isinstance(given, list) else [given])]
    known = tuple(number for number in numbers if number is not None)
    return known if len(known) == len(numbers) else ()


def _number(value: object) -> int | None:
    """Return an integer, also of digits (Medical Segmentation Decathlon)."""
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _shown(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))
