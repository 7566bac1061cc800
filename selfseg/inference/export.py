"""From logits to files: the label map of a case, and its probabilities if wanted."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from selfseg.errors import ImageError
from selfseg.inference.logit_store import LogitStore
from selfseg.inference.model import Model
from selfseg.io.geometry import to_native
from selfseg.io.images import image_ending, write_label_map
from selfseg.preprocessing.invert import label_map_from_logits, probabilities_from_logits
from selfseg.records.dataset import Case
from selfseg.records.geometry import PreprocessedCase

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
    """

    model: Model
    folder: Path
    store: LogitStore
    probabilities: bool = False

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
        """Bring logits (k, z, y, x) back to the image's grid and write the files."""
        resampling = self.model.configuration.preprocessing.resampling
        limit = self.store.budget.export_gib()
        with self.store.releasing(logits):
            indices = label_map_from_logits(logits, record, resampling, max_gib=limit)
        write_label_map(
            indices,
            self.model.plan.labels,
            native=record.native,
            orientation=record.orientation,
            path=self.path(case),
        )
        if self.probabilities:
            self._write_probabilities(case, record, logits)

    def _write_probabilities(self, case: Case, record: PreprocessedCase, logits: Tensor) -> None:
        """Write softmax probabilities (k, z, y, x) in the axes of the file, and label names."""
        canonical = probabilities_from_logits(
            logits,
            record,
            self.model.configuration.preprocessing.resampling,
            max_gib=self.store.budget.export_gib(),
        )
        native = np.stack([to_native(part, record.orientation) for part in canonical])
        names = ["background", *(label.name for label in self.model.plan.labels)]
        path = self.folder / f"{case.id}_probabilities.npz"
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=f".{case.id}.") as scratch:
            temporary = Path(scratch) / path.name
            np.savez_compressed(
                temporary, probabilities=native.astype(np.float16), labels=np.array(names)
            )
            temporary.replace(path)
