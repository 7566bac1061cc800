"""What was made in a folder of predictions, and by what: one small file a case.

There is nothing that two jobs would both write but `quality.json`, which is made from these files
under a lock. A case is entered as begun before its files change and as finished after the last one
is in place: however a job ends, an entry never promises what is not there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from selfseg.errors import DeviceError, ModelError, RecordError
from selfseg.execution.locks import waited_for
from selfseg.inference.export import label_map_path
from selfseg.inference.quality import QUALITY_FILE
from selfseg.io.companions import companion_files, digest_image
from selfseg.records import serial
from selfseg.records.dataset import Case, File
from selfseg.records.prediction import PredictedCase, PredictionBasis, WrittenFile
from selfseg.records.shape_model import CaseQuality, PredictionQuality

log = logging.getLogger(__name__)

HIDDEN_FOLDER = ".predicted"
# By case; None for one that is damaged.
Entries = dict[str, PredictedCase | None]


@dataclass(frozen=True)
class Journal:
    """Entries of the cases in a folder.

    Attributes:
        output: Folder of the label maps.
        basis: What they are made by now.
        probabilities: Whether they are written as well.
        resume: Whether finished cases are kept.
    """

    output: Path
    basis: PredictionBasis
    probabilities: bool = False
    resume: bool = False
    _images: dict[str, tuple[File, ...]] = field(default_factory=dict, repr=False)

    def begin(self, case: Case) -> None:
        """Enter that the files of a case may change from now on."""
        self._images[case.id] = _with_digests(case)
        self._save(case, self._images[case.id])

    def finish(self, case: Case, quality: CaseQuality | None = None) -> None:
        """Enter that all files of a case, which was begun, are in place."""
        label_map = label_map_path(self.output, case)
        paths = [label_map, *companion_files(label_map)]
        if self.probabilities:
            paths.append(self.output / _probabilities(case))
        files = tuple(WrittenFile(name=path.name, size=path.stat().st_size) for path in paths)
        self._save(case, self._images[case.id], files, quality)

    def take_over(self, cases: Sequence[Case]) -> None:
        """Enter as begun what something else has made and is going to be replaced.

        After an interruption --continue replaces the rest of it, too.
        """
        others, unknown, _ = self._foreign(cases, self._entries(cases))
        for case in (*others, *unknown):
            self._save(case, images=())

    def kept(self, cases: Sequence[Case]) -> tuple[PredictedCase, ...]:
        """Return the entries of cases that are not made again; none if everything is.

        Raises:
            ModelError: To resume is asked for, among label maps that something else has made.
        """
        if not self.resume:
            return ()
        entries = self._entries(cases)
        self._check(cases, entries)
        return self._fitting(cases, entries)

    def finished(self, cases: Sequence[Case]) -> tuple[PredictedCase, ...]:
        """Return the entries of cases whose files are there, whole, and would be made the same."""
        return self._fitting(cases, self._entries(cases))

    def save_quality(self, cases: Sequence[Case]) -> None:
        """Write quality.json of all label maps that are there, those of other jobs as well."""
        if not any(digest for model in self.basis.members for digest in model.shapes):
            return
        try:
            with waited_for(self.output / HIDDEN_FOLDER / ".quality.lock", "writes quality.json"):
                entries = self._written(cases, self._entries(cases))
                scores = tuple(entry.quality for _, entry in entries if entry.quality is not None)
                if scores:
                    serial.save(PredictionQuality(cases=scores), self.output / QUALITY_FILE)
        except DeviceError as error:  # the label maps are there all the same
            log.warning("%s was not written: %s", QUALITY_FILE, error)

    def of_stage(self, stage: str) -> Journal:
        """Return the journal of the label maps of a previous stage, in a hidden folder."""
        return Journal(self.output / HIDDEN_FOLDER / stage, self.basis, resume=self.resume)

    def remove_previous(self, cases: Sequence[Case]) -> None:
        """Delete what previous stages have made of some cases, in this run or an earlier one."""
        for folder in (self.output / HIDDEN_FOLDER).glob("[!.]*/"):
            stage = self.of_stage(folder.name)
            for case in cases:
                stage._path(case).unlink(missing_ok=True)
                label_map = label_map_path(stage.output, case)
                for path in (*companion_files(label_map), label_map):
                    path.unlink(missing_ok=True)

    def _check(self, cases: Sequence[Case], entries: Entries) -> None:
        """Refuse to go on among label maps that something else has made, or nobody knows what."""
        others, unknown, fields = self._foreign(cases, entries)
        if others:
            raise ModelError(
                f"--continue: {self.output} has label maps of {_some(others)} that were made "
                f"with another {', '.join(sorted(fields))}",
                remedy="Give the model and options they were made with, or another folder; "
                "without --continue all are made anew.",
            )
        if unknown:
            raise ModelError(
                f"--continue: {self.output} has label maps of {_some(unknown)}, and nothing in "
                f"{HIDDEN_FOLDER} says what made them",
                remedy="Give another folder; without --continue all are made anew.",
            )

    def _foreign(
        self, cases: Sequence[Case], entries: Entries
    ) -> tuple[list[Case], list[Case], set[str]]:
        """Return cases whose label maps something else has made, or nobody knows what.

        And in which fields of its basis that something differs.
        """
        others, unknown, fields = [], [], set[str]()
        for case in cases:
            if not label_map_path(self.output, case).exists():
                continue
            entry = entries.get(case.id)
            if entry is not None and (found := self.basis.differences(entry.basis)):
                others.append(case)
                fields.update(found)
            elif case.id not in entries:
                unknown.append(case)
        return others, unknown, fields

    def _fitting(self, cases: Sequence[Case], entries: Entries) -> tuple[PredictedCase, ...]:
        written = self._written(cases, entries)
        return tuple(entry for case, entry in written if _same_images(case, entry.images))

    def _written(
        self, cases: Sequence[Case], entries: Entries
    ) -> Iterator[tuple[Case, PredictedCase]]:
        """Yield what is made by the same, and whose files are there and whole."""
        for case in cases:
            entry = entries.get(case.id)
            if entry is not None and self._is_written(case, entry):
                yield case, entry

    def _is_written(self, case: Case, entry: PredictedCase) -> bool:
        more = _probabilities(case)
        files = {file.name: file.size for file in entry.files}
        if not self.probabilities:
            files.pop(more, None)
        return (
            entry.basis == self.basis
            and label_map_path(self.output, case).name in files
            and (more in files or not self.probabilities)
            and all(_is_whole(self.output / name, size) for name, size in files.items())
        )

    def _entries(self, cases: Sequence[Case]) -> Entries:
        """Return the entries of the cases that have one."""
        return {case.id: self._entry(case) for case in cases if self._path(case).is_file()}

    def _entry(self, case: Case) -> PredictedCase | None:
        """Return the entry of a case that has one; None where it is damaged."""
        try:
            return serial.load(PredictedCase, self._path(case))
        except RecordError as error:
            log.warning("%s; the case is made again", error.message)
            return None

    def _path(self, case: Case) -> Path:
        return self.output / HIDDEN_FOLDER / f"{case.id}.json"

    def _save(
        self,
        case: Case,
        images: tuple[File, ...],
        files: tuple[WrittenFile, ...] = (),
        quality: CaseQuality | None = None,
    ) -> None:
        entry = PredictedCase(
            case=case.id,
            basis=self.basis,
            images=images,
            files=files,
            quality=quality,
        )
        serial.save(entry, self._path(case))


def _probabilities(case: Case) -> str:
    return f"{case.id}_probabilities.npz"


def _is_whole(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _with_digests(case: Case) -> tuple[File, ...]:
    return tuple(
        file.model_copy(
            update={"path": Path(file.path).name, "digest": digest_image(Path(file.path))}
        )
        for file in case.images
    )


def _same_images(case: Case, former: Sequence[File]) -> bool:
    """Tell whether images are those of an entry.

    They are read where time or size differ, or are not all: voxels may lie in another file.
    """
    if len(case.images) != len(former):
        return False
    return all(
        (
            (now.size, now.modified_ns) == (then.size, then.modified_ns)
            and not companion_files(Path(now.path))
        )
        or digest_image(Path(now.path)) == then.digest
        for now, then in zip(case.images, former, strict=True)
    )


def _some(cases: Sequence[Case]) -> str:
    more = f" and {len(cases) - 3} more" if len(cases) > 3 else ""
    return ", ".join(case.id for case in cases[:3]) + more
