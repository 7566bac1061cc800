"""From logits to files: the label map of a case, and its probabilities if wanted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from selfseg.arrays import Indices
from selfseg.errors import ImageError
from selfseg.files import arriving
from selfseg.inference.logit_store import LogitStore
from selfseg.inference.model import Model
from selfseg.inference.probability_sum import ProbabilitySum
from selfseg.inference.quality import QualityMeter
from selfseg.inference.refinement import refine_sum
from selfseg.io.geometry import canonical_geometry, to_native
from selfseg.io.images import image_ending, write_label_map
from selfseg.postprocessing.apply import apply_steps
from selfseg.preprocessing.invert import label_map_from_logits, probabilities_from_logits
from selfseg.records.crf import DenseCrf
from selfseg.records.dataset import Case
from selfseg.records.geometry import PreprocessedCase
from selfseg.records.postprocessing import Step

# Formats that would change label values; their label maps are stored as PNG.
LOSSY_ENDINGS = (".jpg", ".jpeg")


def label_map_path(folder: Path, case: Case) -> Path:
    """Return the file of a case's label map in a folder: named by case, ending as the image."""
    ending = image_ending(Path(case.images[0].path))
    return folder / (case.id + (".png" if ending in LOSSY_ENDINGS else ending))


@dataclass(frozen=True)
class Export:
    """Writes the results of a model to a folder.

    Attributes:
        model: Whose logits they are.
        folder: Where files go.
        store: Where the logits lie, and the memory that prediction may take.
        probabilities: Write probabilities as well.
        crf: Refines the probabilities before they are decoded; None: nothing does.
        steps: Post-processing of the label maps.
        compact: Folder for probabilities in the compact form that selection reads; None for none.
        quality: Scores the shapes in the label maps.
    """

    model: Model
    folder: Path
    store: LogitStore
    probabilities: bool = False
    crf: DenseCrf | None = None
    steps: tuple[Step, ...] = ()
    compact: Path | None = None
    quality: QualityMeter | None = None

    def path(self, case: Case) -> Path:
        """Return where the label map of a case goes."""
        return label_map_path(self.folder, case)

    def check(self, case: Case) -> None:
        """Refuse to overwrite an image by its own label map."""
        path = self.path(case)
        if path.resolve() in (Path(file.path).resolve() for file in case.images):
            raise ImageError(
                f"{path}: the label map would overwrite the image",
                remedy="Choose another output folder.",
            )

    def write(self, case: Case, record: PreprocessedCase, logits: Tensor) -> None:
        """Bring logits (k, z, y, x) back to the image's grid and write the files.

        Raises:
            DeviceError: A CRF is asked for and its memory is not there.
        """
        resampling = self.model.configuration.preprocessing.resampling
        targets = self.model.plan.targets
        if self.crf is not None:
            total = ProbabilitySum(targets, record, self.store)
            total.add(logits, record, resampling, share=1.0)
            self.write_sum(case, record, total)
            return
        limit = self.store.budget.export_gib()
        with self.store.reading(logits):
            indices = label_map_from_logits(
                logits, record, resampling, targets=targets, max_gib=limit
            )
        if self.compact is not None:  # before the label map: that one says that a case is done
            total = ProbabilitySum(targets, record, self.store)
            total.add(logits, record, resampling, share=1.0)
            total.save(self.compact / f"{case.id}.b2nd")
        self.write_indices(case, record, indices)
        if self.probabilities:
            with self.store.reading(logits):
                canonical = probabilities_from_logits(
                    logits, record, resampling, targets=targets, max_gib=limit
                )
            self.write_probabilities(case, record, canonical)

    def write_sum(self, case: Case, record: PreprocessedCase, total: ProbabilitySum) -> None:
        """Refine the mean probabilities of a case if asked for, and write the files.

        Raises:
            DeviceError: A CRF is asked for and its memory is not there.
        """
        if self.crf is not None:
            preprocessing = self.model.configuration.preprocessing
            room = self.store.budget.logits_bytes(torch.device("cpu"))
            refine_sum(total, case, record, preprocessing, self.crf, room_bytes=room)
        self.write_indices(case, record, total.label_map())
        if self.probabilities:
            self.write_probabilities(case, record, total.with_background())

    def write_indices(self, case: Case, record: PreprocessedCase, indices: Indices) -> None:
        """Clean canonical label indices (Z, Y, X) and write them as the case's label map."""
        spacing_mm = canonical_geometry(record.native, record.orientation).spacing_mm
        cleaned = apply_steps(indices, self.steps, self.model.plan.targets, spacing_mm)
        if self.quality is not None:
            self.quality.add(case.id, cleaned)
        # Those of a former label map would be scored with the new one.
        self._probabilities_path(case).unlink(missing_ok=True)
        write_label_map(
            cleaned,
            self.model.plan.labels,
            native=record.native,
            orientation=record.orientation,
            path=self.path(case),
        )

    def write_probabilities(
        self, case: Case, record: PreprocessedCase, canonical: npt.NDArray[np.floating]
    ) -> None:
        """Write probabilities (k, Z, Y, X) in the axes of the file, and label names."""
        native = np.stack([to_native(part, record.orientation) for part in canonical])
        targets = self.model.plan.targets
        names = targets.names if targets.regions else ("background", *targets.names)
        with arriving(self._probabilities_path(case)) as temporary:
            np.savez_compressed(
                temporary, probabilities=native.astype(np.float16), labels=np.array(names)
            )

    def _probabilities_path(self, case: Case) -> Path:
        return self.folder / f"{case.id}_probabilities.npz"
