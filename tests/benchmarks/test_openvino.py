"""Prediction with OpenVINO against torch, the same imported network and images, in one run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (its users' name for it)
import torch
from realdata import data_root

from selfseg.importing import import_nnunet
from selfseg.inference.model import Model, load_model
from selfseg.inference.openvino_engine import load_openvino
from selfseg.inference.predictor import predict_cases
from selfseg.io.unlabeled import list_cases
from selfseg.networks.precision import autocast_dtype
from selfseg.records.dataset import Case
from selfseg.records.model import Engine

CPU = torch.device("cpu")
CASES, ROUNDS = 1, 5  # each image is seen in eight mirror images
LEAST_AGREEMENT = 0.9999  # of voxels


def imported(folder: Path) -> tuple[Path, tuple[Case, ...]]:
    """Return a real model, imported, and some of its unseen images."""
    source, images = data_root("nnunet_model") / "model", data_root("hippocampus") / "imagesTs"
    model = import_nnunet(source, output=folder / "model", workspace=folder).folder
    return model, list_cases(images, 1)[:CASES]


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds of some work, by the clock and of the processor."""
    began = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began[0], time.process_time() - began[1]


def agreement(first: Path, second: Path) -> float:
    """Return the least share of equal voxels of the label maps in two folders."""
    shares = []
    for path in first.glob("*.nii.gz"):
        arrays = [
            sitk.GetArrayFromImage(sitk.ReadImage(str(f / path.name))) for f in (first, second)
        ]
        shares.append(float(np.equal(*arrays).mean()))
    return min(shares)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.bench
@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
def test_openvino_against_torch(tmp_path: Path) -> None:
    folder, cases = imported(tmp_path)
    engines: tuple[Engine, Engine] = ("torch", "openvino")
    models: dict[Engine, Model] = {e: load_model(folder, device=CPU, engine=e) for e in engines}
    load_openvino()

    def predict(engine: Engine) -> None:
        report = predict_cases(models[engine], cases, tmp_path / engine, tta=True)
        assert not report.failed

    first = {engine: seconds(partial(predict, engine)) for engine in engines}
    taken: dict[Engine, list[tuple[float, float]]] = {engine: [] for engine in engines}
    for _ in range(ROUNDS):  # alternating, so that both meet the same noise
        for engine in engines:
            taken[engine].append(seconds(partial(predict, engine)))
    share = agreement(tmp_path / "torch", tmp_path / "openvino")
    clock, processor = (
        {engine: median(pair[kind] for pair in taken[engine]) for engine in engines}
        for kind in (0, 1)
    )
    network = models["openvino"].configuration.network
    print(
        f"\n{network.kind} {network.features}, patch {models['torch'].configuration.patch}, "
        f"{CASES} mirrored images, {torch.get_num_threads()} threads, "
        f"load {os.getloadavg()[0]:.1f}\n"
        + "".join(
            f"{engine}: {clock[engine]:.2f} s, {processor[engine]:.2f} s of processor time; "
            f"the first time {first[engine][0]:.2f} and {first[engine][1]:.2f} s\n"
            for engine in engines
        )
        + f"ratio {clock['torch'] / clock['openvino']:.2f} by the clock, "
        f"{processor['torch'] / processor['openvino']:.2f} in processor time; rounds "
        + ", ".join(f"{t[0] / o[0]:.2f}" for t, o in zip(*taken.values(), strict=True))
        + f"; equal voxels {share:.6f}"
    )
    assert share >= LEAST_AGREEMENT
    if autocast_dtype(CPU)[0] is None:  # else torch has a faster format
        assert processor["torch"] > processor["openvino"]
