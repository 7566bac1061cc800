"""Predict one image in this process and print its peak memory in bytes: `LABELS MEMBERS FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813
import torch
from peakmemory import peak_mib
from tinymodel import tiny_configuration, tiny_plan
from torch import Tensor, nn

from selfseg.inference.members import predict_ensemble
from selfseg.inference.model import Ensemble, Model
from selfseg.io.unlabeled import list_cases
from selfseg.records.dataset import Label

SHAPE = (48, 128, 128)
MAX_MEMORY_GIB = 0.2  # of which a window of 150 labels and the image take 0.1


class Stripes(nn.Module):
    """One label after the other by intensity, without weights of any size."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.levels = torch.arange(outputs).view(1, -1, 1, 1, 1) / outputs

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (-((x[:, :1] - self.levels) ** 2),)


def main(labels: int, members: int, folder: Path) -> None:
    """Write an image, predict it, print the peak."""
    z, y, x = np.meshgrid(*(np.linspace(0, 1, n, dtype=np.float32) for n in SHAPE), indexing="ij")
    (folder / "in").mkdir(parents=True)
    sitk.WriteImage(sitk.GetImageFromArray((z + y + x) / 3), str(folder / "in" / "a.mha"))
    del z, y, x
    names = tuple(Label(name=f"label {i}", value=i) for i in range(1, labels + 1))
    models = []
    for index in range(members):
        spacing = 1.0 + 0.25 * index
        configuration = tiny_configuration(spacing_mm=(spacing,) * 3, patch=(16, 32, 32))
        plan = tiny_plan(configuration).model_copy(update={"labels": names})
        network = Stripes(labels + 1).eval()
        models.append(Model(Path(), plan, configuration, ("0",), (), network, torch.device("cpu")))
    torch.set_num_threads(1)
    report = predict_ensemble(
        Ensemble(tuple(models)),
        list_cases(folder / "in", 1),
        folder / "out",
        max_memory_gib=MAX_MEMORY_GIB,
    )
    assert report.done == ("a",), report.failed
    sys.stdout.write(f"{peak_mib() * 2**20:.0f}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
