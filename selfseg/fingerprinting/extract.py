"""One parallel pass over a dataset: digest, read, check and measure every case."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from selfseg.arrays import nonzero_extent
from selfseg.errors import DatasetError, SelfSegError
from selfseg.execution.processes import map_parallel
from selfseg.fingerprinting.intensities import pool_intensities, sketch_intensities
from selfseg.fingerprinting.labels import measure_labels, summarize_label
from selfseg.io.checks import check_case, find_duplicates
from selfseg.io.companions import companion_files, digest_image
from selfseg.io.images import Image, label_indices, read_image, read_label_map
from selfseg.records.dataset import Case, Dataset, File
from selfseg.records.fingerprint import CaseFacts, Fingerprint
from selfseg.words import counted

log = logging.getLogger(__name__)

# Goes into the cache key: raise it when a fact is measured differently.
MEASURE_VERSION = 3
NAMES_SHOWN = 10


@dataclass(frozen=True)
class CaseReport:
    """What was found out about one case.

    Attributes:
        case: With the digests of its files, as far as they could be read.
        key: Key of its facts; empty if there are complaints.
        facts: None if there are complaints, or if the facts of this key are known.
        complaints: A line each: file, finding, remedy.
    """

    case: Case
    key: str = ""
    facts: CaseFacts | None = None
    complaints: tuple[str, ...] = ()


def inspect(
    dataset: Dataset, *, workers: int, known: tuple[Dataset, Fingerprint] | None = None
) -> tuple[Dataset, Fingerprint]:
    """Digest, read, check and measure every case in one parallel pass.

    Args:
        dataset: As described; file digests may be empty.
        workers: Parallel processes.
        known: An earlier result; cases with unchanged files are not read again.

    Returns:
        The dataset with the digest of every file, and its fingerprint.

    Raises:
        DatasetError: All complaints about all cases; or not one case has foreground.
    """
    digests, facts_by_key = _known(known)
    cases = [_with_digests(case, Path(dataset.root), digests) for case in dataset.cases]
    reports = _reports(cases, dataset, frozenset(facts_by_key), workers)
    checked = dataset.model_copy(update={"cases": tuple(report.case for report in reports)})
    facts = [
        found.model_copy(update={"id": report.case.id})
        for report in reports
        if (found := report.facts or facts_by_key.get(report.key))
    ]
    complaints = [complaint for report in reports for complaint in report.complaints]
    complaints += find_duplicates(checked.cases)
    complaints += _foreground_complaints(facts, len(cases))
    if complaints:
        raise DatasetError(
            f"{dataset.root}: {counted(len(complaints), 'complaint')} about "
            f"{counted(len(cases), 'case')}",
            complaints=complaints,
            remedy="Mend these files or take the cases out; nothing was written.",
        )
    return checked, summarize(checked, facts)


def inspect_case(case: Case, *, dataset: Dataset, known: Collection[str]) -> CaseReport:
    """Digest one case's files, and read, check and measure them unless the facts are known."""
    root = Path(dataset.root)
    try:
        case = _digested(case, root)
        key = _key(case, dataset)
        if key in known:
            return CaseReport(case, key)
        if case.reference is None:
            return CaseReport(
                case, complaints=(f"{case.id}: no reference; add it or leave it out",)
            )
        image = read_image([root / file.path for file in case.images])
        reference = read_label_map(root / case.reference.path)
        complaints = check_case(case, image, reference, dataset)
        if complaints:
            return CaseReport(case, complaints=tuple(complaints))
        return CaseReport(case, key, measure_case(case.id, key, image, reference, dataset))
    except DatasetError as error:
        return CaseReport(case, complaints=error.complaints or (error.message,))
    except SelfSegError as error:
        line = f"{error.message}; {error.remedy}" if error.remedy else error.message
        return CaseReport(case, complaints=(line,))
    except OSError as error:
        finding = error.strerror or str(error)
        line = f"{error.filename or case.id}: {finding}; see that it is there and can be read"
        return CaseReport(case, complaints=(line,))


def measure_case(
    case_id: str, digest: str, image: Image, reference: Image, dataset: Dataset
) -> CaseFacts:
    """Measure one case that was read and found in order (reference nnunet.md 1.5 for the terms)."""
    indices = label_indices(reference.array[0], dataset.labels, dataset.ignore)
    annotated = indices <= len(dataset.labels)
    foreground = (indices > 0) & annotated
    box = nonzero_extent(image.array)
    sketches, integers = [], True
    for channel in image.array:
        values = channel[foreground]
        sketches.append(sketch_intensities(values))
        integers = integers and bool((values == np.rint(values)).all())
    return CaseFacts(
        id=case_id,
        digest=digest,
        shape=image.geometry.shape,
        shape_after_crop=box.shape,
        spacing_mm=image.geometry.spacing_mm,
        is_2d=image.geometry.is_2d,
        integer_intensities=integers,
        intensities=tuple(sketches),
        labels=measure_labels(
            indices,
            len(dataset.labels),
            image.geometry.spacing_mm,
            image=image.array,
            body=box,
        ),
        annotated_share=float(annotated[box.slices].mean()),
    )


def _reports(
    cases: Sequence[Case], dataset: Dataset, known: frozenset[str], workers: int
) -> list[CaseReport]:
    """Report on all cases in order; those whose files are known to be unchanged need no worker."""
    reports = {}
    for case in cases:
        if all(file.digest for file in _files(case)) and _key(case, dataset) in known:
            reports[case.id] = CaseReport(case, _key(case, dataset))
    fresh = [case for case in cases if case.id not in reports]
    if fresh:
        bare = dataset.model_copy(update={"cases": ()})  # it travels with every case
        work = partial(inspect_case, dataset=bare, known=known)
        found = map_parallel(work, fresh, workers=workers, label="Measuring")
        reports |= {report.case.id: report for report in found}
    return [reports[case.id] for case in cases]


def _foreground_complaints(measured: Sequence[CaseFacts], num_cases: int) -> list[str]:
    """Complain if no case has foreground; warn of single ones that have none."""
    empty = [facts.id for facts in measured if not any(label.voxels for label in facts.labels)]
    if not empty:
        return []
    if len(empty) == num_cases:
        return ["no foreground in any case; correct the label files, or 'labels' in dataset.json"]
    shown = ", ".join(empty[:NAMES_SHOWN]) + (", …" if len(empty) > NAMES_SHOWN else "")
    log.warning("%d of %d cases without foreground: %s", len(empty), num_cases, shown)
    return []


def summarize(dataset: Dataset, cases: list[CaseFacts]) -> Fingerprint:
    """Return the fingerprint of measured cases."""
    relative = [float(np.prod(c.shape_after_crop) / np.prod(c.shape)) for c in cases]
    channels = range(len(dataset.channels))
    return Fingerprint(
        cases=tuple(cases),
        intensities=tuple(
            pool_intensities([case.intensities[channel] for case in cases]) for channel in channels
        ),
        labels=tuple(
            summarize_label(label.name, [case.labels[index] for case in cases])
            for index, label in enumerate(dataset.labels)
        ),
        median_relative_size_after_crop=float(np.median(relative)) if relative else 1.0,
    )


def _known(
    known: tuple[Dataset, Fingerprint] | None,
) -> tuple[dict[tuple[str, int, int], str], dict[str, CaseFacts]]:
    """Return digests by (path, size, time) and facts by digest from an earlier result."""
    if known is None:
        return {}, {}
    dataset, fingerprint = known
    root = Path(dataset.root)
    files = [file for case in dataset.cases for file in _files(case)]
    digests = {
        (str(root / file.path), file.size, file.modified_ns): file.digest
        for file in files
        if file.digest
    }
    return digests, {facts.digest: facts for facts in fingerprint.cases}


def _with_digests(case: Case, root: Path, known: Mapping[tuple[str, int, int], str]) -> Case:
    """Set the digests of files that have not changed since they were last read; clear others."""

    def fill(file: File) -> File:
        path = root / file.path
        # Size and time are those of the file itself, which says nothing of its companions.
        facts = (str(path), file.size, file.modified_ns)
        digest = "" if companion_files(path) else known.get(facts, "")
        return file.model_copy(update={"digest": digest})

    reference = case.reference and fill(case.reference)
    images = tuple(fill(file) for file in case.images)
    return case.model_copy(update={"images": images, "reference": reference})


def _digested(case: Case, root: Path) -> Case:
    """Compute the digests that are missing."""

    def fill(file: File) -> File:
        return file.model_copy(update={"digest": file.digest or digest_image(root / file.path)})

    reference = case.reference and fill(case.reference)
    images = tuple(fill(file) for file in case.images)
    return case.model_copy(update={"images": images, "reference": reference})


def _files(case: Case) -> tuple[File, ...]:
    return (*case.images, *((case.reference,) if case.reference else ()))


def _key(case: Case, dataset: Dataset) -> str:
    """Return a digest of everything that the facts of a case depend on."""
    values = ([label.value for label in dataset.labels], dataset.ignore)
    content = (MEASURE_VERSION, [file.digest for file in _files(case)], values, dataset.channels)
    return hashlib.sha256(repr(content).encode()).hexdigest()[:32]
