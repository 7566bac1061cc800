"""Ensembles of configurations: equal to the mean computed naively, whatever their grids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from tinymodel import LABELS, tiny_configuration, tiny_plan
from torch import Tensor, nn

from selfseg.inference.decode import decode
from selfseg.inference.logit_store import LogitStore, MemoryBudget
from selfseg.inference.members import predict_ensemble
from selfseg.inference.model import Ensemble, Model
from selfseg.inference.predictor import inference_options, member_logits, predict_cases, read_case
from selfseg.inference.probability_sum import ProbabilitySum
from selfseg.io.images import read_label_map
from selfseg.io.store import open_array
from selfseg.io.unlabeled import list_cases
from selfseg.preprocessing.foreground import foreground_tiles
from selfseg.preprocessing.invert import probabilities_from_logits
from selfseg.records.dataset import Region, Targets
from selfseg.records.postprocessing import LargestComponent

CPU = torch.device("cpu")


class Soft(nn.Module):
    """Smooth logits that differ with the seed: none is certain."""

    def __init__(self, seed: int, dims: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        kind = nn.Conv2d if dims == 2 else nn.Conv3d
        self.layer = kind(1, len(LABELS) + 1, 3, padding=1)
        assert self.layer.bias is not None
        nn.init.zeros_(self.layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (3 * self.layer(x),)


class Failing(Soft):
    """Runs out of memory in the windows of one image."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        if float(x.max()) > 50:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return super().forward(x)


def members(second: type[Soft] = Soft) -> tuple[Model, Model]:
    """Return a 2D and a 3D member with different axes, spacings and patches."""
    flat = tiny_configuration("2d", spacing_mm=(None, 1.3, 0.8), axes=(1, 0, 2), patch=(16, 8))
    volume = tiny_configuration("3d_fullres", spacing_mm=(1.5, 1.2, 1.2), patch=(8, 8, 16))
    plan = tiny_plan(flat, volume)
    return (
        Model(Path(), plan, flat, ("0",), (0, 1), Soft(1, 2).eval(), CPU),
        Model(Path(), plan, volume, ("0",), (0, 1, 2), second(2, 3).eval(), CPU),
    )


def write_image(path: Path, *, seed: int = 0, scale: float = 1.0) -> None:
    """Write an oblique image with an empty border, so that there is a crop."""
    array = np.random.default_rng(seed).normal(1, 1, (7, 20, 18)).astype(np.float32) * scale
    array[:, :2] = 0
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.0, 1.1, 2.0))
    image.SetDirection((0, -1, 0, 1, 0, 0, 0, 0, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def naive(models: tuple[Model, ...], path: Path) -> np.ndarray:
    """Return the mean of the members' probabilities (k, Z, Y, X), all in memory."""
    (case,) = list_cases(path, 1)
    result = []
    for model in models:
        prepared = read_case(model, case)
        options = inference_options(model, tta=True, step=None)
        logits = member_logits(model, prepared, options, LogitStore())
        resampling = model.configuration.preprocessing.resampling
        result.append(
            probabilities_from_logits(
                logits, prepared.record, resampling, targets=Targets(labels=LABELS), max_gib=1
            )
        )
    return np.asarray(np.mean(result, axis=0))


@pytest.mark.parametrize("limit_gib", [None, 1e-7])
def test_an_ensemble_is_the_mean_of_its_members(tmp_path: Path, limit_gib: float | None) -> None:
    write_image(tmp_path / "in" / "a.nii.gz")
    models = members()
    report = predict_ensemble(
        Ensemble(models), list_cases(tmp_path / "in", 1), tmp_path / "out",
        max_memory_gib=limit_gib, probabilities=True, workers=2,
    )  # fmt: skip
    assert report.done == ("a",)
    expected = naive(models, tmp_path / "in" / "a.nii.gz")
    made = read_label_map(tmp_path / "out" / "a.nii.gz")
    values = np.array([0, *(label.value for label in LABELS)])[expected.argmax(0)]
    first, second = np.sort(expected, axis=0)[-1], np.sort(expected, axis=0)[-2]
    clear = first - second > 0.005
    assert clear.mean() > 0.9
    assert len(np.unique(values)) == 3
    np.testing.assert_array_equal(made.array[0][clear], values[clear])
    given = sitk.ReadImage(str(tmp_path / "in" / "a.nii.gz"))
    written = sitk.ReadImage(str(tmp_path / "out" / "a.nii.gz"))
    assert written.GetDirection() == given.GetDirection()
    assert written.GetSize() == given.GetSize()
    with np.load(tmp_path / "out" / "a_probabilities.npz", allow_pickle=False) as stored:
        assert stored["labels"].tolist() == ["background", "core", "rim"]
        np.testing.assert_allclose(stored["probabilities"].sum(0), 1, atol=4e-3)
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left == ["a.nii.gz", "a_probabilities.npz"]


def test_a_case_fails_if_a_member_does_and_the_others_are_done(tmp_path: Path) -> None:
    for index, name in enumerate("abc"):
        write_image(tmp_path / "in" / f"{name}.nii.gz", seed=index, scale=99 if name == "b" else 1)
    cases = list_cases(tmp_path / "in", 1)
    report = predict_ensemble(Ensemble(members(Failing)), cases, tmp_path / "out")
    assert report.done == ("a", "c")
    assert [name for name, _ in report.failed] == ["b"]
    predict_ensemble(Ensemble(members()), [cases[0], cases[2]], tmp_path / "again")
    for name in ("a.nii.gz", "c.nii.gz"):
        one, other = (read_label_map(tmp_path / f / name).array for f in ("out", "again"))
        np.testing.assert_array_equal(one, other)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.nii.gz", "c.nii.gz"]


def test_one_member_is_predicted_as_without_an_ensemble_and_then_cleaned(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "a.nii.gz")
    cases, (model, _) = list_cases(tmp_path / "in", 1), members()
    predict_cases(model, cases, tmp_path / "plain")
    predict_ensemble(Ensemble((model,)), cases, tmp_path / "one")
    steps = (LargestComponent(name="rim"),)
    predict_ensemble(Ensemble((model,), steps), cases, tmp_path / "cleaned")
    plain, one, cleaned = (
        read_label_map(tmp_path / folder / "a.nii.gz").array[0]
        for folder in ("plain", "one", "cleaned")
    )
    np.testing.assert_array_equal(plain, one)
    np.testing.assert_array_equal(plain[cleaned != plain], 4)
    np.testing.assert_array_equal(cleaned[cleaned != plain], 0)
    assert (cleaned != plain).any()
    assert (cleaned == 4).any()


def test_stored_probabilities_decode_to_the_label_map(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "a.nii.gz")
    cases, (_, model) = list_cases(tmp_path / "in", 1), members()
    predict_cases(model, cases, tmp_path / "out", compact=tmp_path / "compact")
    stored = open_array(tmp_path / "compact" / "a.b2nd")
    assert stored.dtype == np.uint8
    expected = naive((model,), tmp_path / "in" / "a.nii.gz")
    np.testing.assert_allclose(stored[:] / 255, expected[1:], atol=0.5 / 255 + 1 / 1024)
    indices = decode([stored], model.plan.targets, full=255.0)
    label_map = read_label_map(tmp_path / "out" / "a.nii.gz").array[0]
    first, second = np.sort(expected, axis=0)[-1], np.sort(expected, axis=0)[-2]
    clear = first - second > 0.01
    np.testing.assert_array_equal(np.array([0, 1, 4])[indices][clear], label_map[clear])
    assert [path.name for path in (tmp_path / "compact").iterdir()] == ["a.b2nd"]


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("scale", [1.0, 12.0])
def test_tiles_hold_the_probabilities_of_every_voxel(
    tmp_path: Path, regions: bool, scale: float
) -> None:
    """Sure logits (scale 12) go the short way, soft ones are interpolated; both are right."""
    write_image(tmp_path / "a.nii.gz")
    (case,), (_, model) = list_cases(tmp_path / "a.nii.gz", 1), members()
    prepared = read_case(model, case)
    record, resampling = prepared.record, model.configuration.preprocessing.resampling
    rng = np.random.default_rng(4)
    logits = torch.from_numpy(scale * rng.normal(0, 1, (3, *record.shape)))
    targets = Targets(labels=LABELS)
    if regions:
        whole = Region(name="whole", values=(1, 4), value=1)
        core = Region(name="core", values=(1,), value=4)
        more = Region(name="rim", values=(4,), value=4)
        targets = Targets(labels=LABELS, regions=(whole, core, more))
    total = ProbabilitySum(targets, record, LogitStore(MemoryBudget(0.001)))
    total.add(logits, record, resampling, share=1.0)
    if regions:
        both = [torch.stack([torch.zeros_like(part), part]) for part in logits]
        expected = np.concatenate(
            [
                probabilities_from_logits(
                    p, record, resampling, targets=Targets(labels=LABELS), max_gib=1
                )[1:]
                for p in both
            ]
        )
        z, y, x = np.nonzero(~_covered(record.shape_before_crop, logits, prepared, targets))
        expected[:, z, y, x] = 0
    else:
        expected = probabilities_from_logits(
            logits, record, resampling, targets=Targets(labels=LABELS), max_gib=1
        )[1:]
    np.testing.assert_allclose(total.values.float().numpy(), expected, atol=2e-3)


def _covered(shape: object, logits: Tensor, prepared: object, targets: Targets) -> np.ndarray:
    """Return the voxels of the canonical grid that some tile has; each exactly once."""
    record = prepared.record  # type: ignore[attr-defined]
    covered = np.zeros([record.shape_before_crop[axis] for axis in np.argsort(record.axes)], int)
    resampling = tiny_configuration().preprocessing.resampling
    for place, part in foreground_tiles(logits, record, resampling, targets=targets, max_gib=1e-6):
        assert part.shape[1:] == covered[place].shape
        covered[place] += 1
    assert covered.max() == 1
    return covered > 0


def test_regions_are_decoded_in_their_order() -> None:
    targets = Targets(
        labels=LABELS,
        regions=(
            Region(name="whole", values=(1, 4), value=1),
            Region(name="rim", values=(4,), value=4),
        ),
    )
    values = np.zeros((2, 1, 1, 4), np.float32)
    values[0, 0, 0], values[1, 0, 0] = (0.5, 0.6, 0.6, 0.1), (0.1, 0.4, 0.9, 0.8)
    assert decode([values], targets, full=1.0).ravel().tolist() == [0, 1, 2, 2]
    assert decode([values, values], targets, full=2.0).ravel().tolist() == [0, 1, 2, 2]


def test_background_is_what_labels_leave() -> None:
    values = np.zeros((2, 1, 1, 4), np.float32)
    values[0, 0, 0], values[1, 0, 0] = (0.5, 0.4, 0.3, 0.2), (0.0, 0.3, 0.4, 0.2)
    found = decode([values], Targets(labels=LABELS), full=1.0)
    assert found.ravel().tolist() == [0, 1, 2, 0]
