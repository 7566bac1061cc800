"""One parallel pass over a dataset: digest, read, check and measure every case."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from selfseg.arrays import nonzero_box
from selfseg.errors import DatasetError, SelfSegError
from selfseg.execution.processes import map_parallel
from selfseg.fingerprinting.intensities import pool_intensities, sketch_intensities
from selfseg.fingerprinting.labels import measure_labels, summarize_label
from selfseg.io.checks import check_case, digest_file, find_duplicates
from selfseg.io.images import Image, label_indices, read_image, read_label_map
from selfseg.records.dataset import Case, Dataset, File
from selfseg.records.fingerprint import CaseFacts, Fingerprint

log = logging.getLogger(__name__)

# Goes into the cache key: raise it when a fact is measured differently.
MEASURE_VERSION = 1
NAMES_SHOWN = 10


@dataclass(frozen=True)
class CaseReport:
    """What one worker found out about one case; `facts` is None if there are complaints."""

    case: Case
    facts: CaseFacts | None
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
    digests, facts = _known(known)
    cases = [_with_digests(case, Path(dataset.root), digests) for case in dataset.cases]
    work = partial(inspect_case, dataset=dataset.model_copy(update={"cases": ()}), known=facts)
    reports = map_parallel(work, cases, workers=workers, label="Measuring")
    checked = dataset.model_copy(update={"cases": tuple(report.case for report in reports)})
    complaints = [complaint for report in reports for complaint in report.complaints]
    complaints += find_duplicates(checked.cases)
    complaints += _foreground_complaints(reports)
    if complaints:
        raise DatasetError(
            f"{dataset.root}: {len(complaints)} complaints about {len(cases)} cases",
            complaints=complaints,
            remedy="Mend these files or take the cases out; nothing was written.",
        )
    return checked, summarize(checked, [report.facts for report in reports if report.facts])


def inspect_case(case: Case, *, dataset: Dataset, known: Mapping[str, CaseFacts]) -> CaseReport:
    """Digest one case's files and measure them, unless the digest is known."""
    root = Path(dataset.root)
    try:
        case = _digested(case, root)
        key = _cache_key(case, dataset)
        if key in known:
            return CaseReport(case=case, facts=known[key].model_copy(update={"id": case.id}))
        image = read_image([root / file.path for file in case.images])
        reference = read_label_map(root / case.reference.path) if case.reference else None
        complaints = check_case(case, image, reference, dataset)
        if complaints or reference is None:
            return CaseReport(case=case, facts=None, complaints=tuple(complaints))
        return CaseReport(case=case, facts=measure_case(case.id, key, image, reference, dataset))
    except DatasetError as error:
        lines = error.complaints or (error.message,)
        return CaseReport(case=case, facts=None, complaints=lines)
    except (SelfSegError, OSError) as error:
        line = str(error).replace("\n  → ", "; ")
        return CaseReport(case=case, facts=None, complaints=(line,))


def measure_case(
    case_id: str, digest: str, image: Image, reference: Image, dataset: Dataset
) -> CaseFacts:
    """Measure one case that was read and found in order (reference nnunet.md 1.5 for the terms)."""
    indices = label_indices(reference.array[0], dataset.labels)
    foreground = indices > 0
    _, box = nonzero_box(image.array)
    first = image.array[:, foreground]
    return CaseFacts(
        id=case_id,
        digest=digest,
        shape=image.geometry.shape,
        shape_after_crop=box.shape,
        spacing_mm=image.geometry.spacing_mm,
        is_2d=image.geometry.is_2d,
        integer_intensities=bool(np.equal(first, np.round(first)).all()),
        intensities=tuple(sketch_intensities(values) for values in first),
        labels=measure_labels(indices, len(dataset.labels), image.geometry.spacing_mm),
    )


def _foreground_complaints(reports: Sequence[CaseReport]) -> list[str]:
    """Complain if no case has foreground; warn of single ones that have none."""
    measured = [report.facts for report in reports if report.facts]
    empty = [facts.id for facts in measured if not any(label.voxels for label in facts.labels)]
    if not empty:
        return []
    if len(empty) == len(reports):
        return ["no foreground in any case; correct the label files, or 'labels' in dataset.json"]
    shown = ", ".join(empty[:NAMES_SHOWN]) + (", …" if len(empty) > NAMES_SHOWN else "")
    log.warning("%d of %d cases without foreground: %s", len(empty), len(reports), shown)
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
    """Fill in the digests of files that have not changed since they were last read."""

    def fill(file: File) -> File:
        key = (str(root / file.path), file.size, file.modified_ns)
        return file.model_copy(update={"digest": known.get(key, file.digest)})

    reference = case.reference and fill(case.reference)
    images = tuple(fill(file) for file in case.images)
    return case.model_copy(update={"images": images, "reference": reference})


def _digested(case: Case, root: Path) -> Case:
    """Compute the digests that are missing."""

    def fill(file: File) -> File:
        return file.model_copy(update={"digest": file.digest or digest_file(root / file.path)})

    reference = case.reference and fill(case.reference)
    images = tuple(fill(file) for file in case.images)
    return case.model_copy(update={"images": images, "reference": reference})


def _files(case: Case) -> tuple[File, ...]:
    return (*case.images, *((case.reference,) if case.reference else ()))


def _cache_key(case: Case, dataset: Dataset) -> str:
    """Return a digest of everything that the facts of a case depend on."""
    values = [label.value for label in dataset.labels]
    content = (MEASURE_VERSION, [file.digest for file in _files(case)], values, dataset.channels)
    return hashlib.sha256(repr(content).encode()).hexdigest()[:32]
