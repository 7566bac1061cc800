"""Prediction with a dense CRF: between the mean of the members and the label map, nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from tinymodel import LABELS, save_model, tiny_configuration, tiny_plan
from torch import Tensor, nn

from selfseg.arrays import nonzero_box
from selfseg.inference.decode import decode
from selfseg.inference.logit_store import LogitStore, MemoryBudget
from selfseg.inference.members import predict_ensemble
from selfseg.inference.model import Ensemble, Model, load_ensemble
from selfseg.inference.predictor import inference_options, member_logits, read_case
from selfseg.inference.probability_sum import ProbabilitySum
from selfseg.inference.refinement import refine_sum, refined_place
from selfseg.inference.trained import model_digest
from selfseg.io.images import read_image, read_label_map
from selfseg.io.unlabeled import list_cases
from selfseg.networks.one_hot import OneHotInput
from selfseg.postprocessing.crf import refine_foreground
from selfseg.records import serial
from selfseg.records.crf import DenseCrf
from selfseg.records.dataset import Case, Region
from selfseg.records.estimate import Estimate
from selfseg.records.geometry import Box
from selfseg.records.plan import Plan
from selfseg.records.preprocessing import ZScore
from selfseg.records.selection import Member, Selection

CPU = torch.device("cpu")
CRF = DenseCrf(theta_intensity=0.4, iterations=3)
REGIONS = (
    Region(name="whole", values=(1, 4), value=1),
    Region(name="rim", values=(4,), value=4),
)
Floats = npt.NDArray[np.float32]


class Rough(nn.Module):
    """Logits that follow the image, badly: the more seeds, the more members."""

    def __init__(self, seed: int, dims: int, outputs: int = 3, channels: int = 1) -> None:
        super().__init__()
        torch.manual_seed(seed)
        kind = nn.Conv2d if dims == 2 else nn.Conv3d
        self.layer = kind(channels, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (2 * self.layer(x),)


def models(plan: Plan | None = None) -> tuple[Model, Model]:
    """Return a 2D and a 3D member with different axes, spacings and patches."""
    flat = tiny_configuration("2d", spacing_mm=(None, 1.3, 0.8), axes=(1, 0, 2), patch=(16, 8))
    volume = tiny_configuration("3d_fullres", spacing_mm=(1.5, 1.2, 1.2), patch=(8, 8, 16))
    normalized = {"normalization": (ZScore(inside_mask=True),)}
    flat, volume = (
        c.model_copy(update={"preprocessing": c.preprocessing.model_copy(update=normalized)})
        for c in (flat, volume)
    )
    plan = plan or tiny_plan(flat, volume)
    outputs = plan.targets.outputs
    return (
        Model(Path(), plan, flat, ("0",), (0, 1), Rough(1, 2, outputs).eval(), CPU),
        Model(Path(), plan, volume, ("0",), (0, 1, 2), Rough(2, 3, outputs).eval(), CPU),
    )


def write_image(path: Path, *, shape: tuple[int, ...] = (7, 20, 18), value: float = 2.0) -> Case:
    """Write an oblique image with an empty border, so that there is a crop."""
    rng = np.random.default_rng(0)
    array = rng.normal(1, 0.3, shape).astype(np.float32)
    array[..., 6:14, 4:12] += value
    array[..., :2, :] = 0
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.0, 1.1, 2.0)[: len(shape)])
    if len(shape) == 3:
        image.SetDirection((0, -1, 0, 1, 0, 0, 0, 0, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    (case,) = list_cases(path, 1)
    return case


def cascade() -> tuple[Model, Model]:
    """Return the first stage and the last of a cascade."""
    _, full = models()
    low = tiny_configuration("3d_lowres", spacing_mm=(2.0, 1.5, 1.5))
    low = low.model_copy(update={"preprocessing": full.configuration.preprocessing})
    changes = {"name": "3d_cascade", "previous_stage": "3d_lowres"}
    last = full.configuration.model_copy(update=changes)
    plan = tiny_plan(low, last)
    outputs, labels = plan.targets.outputs, len(plan.labels)
    network = OneHotInput(Rough(3, 3, outputs, 1 + labels), labels).eval()
    return (
        Model(Path(), plan, low, ("0",), (0, 1, 2), Rough(2, 3, outputs).eval(), CPU),
        Model(Path(), plan, last, ("0",), (0, 1, 2), network, CPU),
    )


def mean_of(members: tuple[Model, ...], case: Case, previous: Path | None = None) -> ProbabilitySum:
    """Return the members' mean probabilities, not refined; `previous` is for cascades."""
    total = None
    for model in members:
        staged = model.configuration.previous_stage is not None
        prepared = read_case(model, case, previous if staged else None)
        options = inference_options(model, tta=True, step=None)
        logits = member_logits(model, prepared, options, LogitStore())
        if total is None:
            total = ProbabilitySum(model.plan.targets, prepared.record, LogitStore())
        resampling = model.configuration.preprocessing.resampling
        total.add(logits, prepared.record, resampling, share=1 / len(members))
    assert total is not None
    return total


def by_hand(members: tuple[Model, ...], case: Case, previous: Path | None = None) -> Tensor:
    """Return refined probabilities (c, Z, Y, X): of the whole nonzero box at once."""
    total = mean_of(members, case, previous)
    image = read_image([Path(file.path) for file in case.images])
    mask, box = nonzero_box(image.array)
    values = image.array[0][mask]
    normalized = np.where(mask, (image.array - values.mean()) / values.std(), 0)
    place = (slice(None), *box.slices)
    whole = total.values.float()
    whole[place] = refine_foreground(
        whole[place], torch.from_numpy(normalized.astype(np.float32))[place],
        image.geometry.spacing_mm, CRF,
        exclusive=not members[0].plan.regions, method="lattice",
    )  # fmt: skip
    return whole


def values_of(indices: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    values = np.array([0, *(label.value for label in LABELS)])
    found: npt.NDArray[np.int64] = values[indices]
    return found


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("regions", [(), REGIONS])
def test_the_mean_of_the_members_is_refined_and_then_decoded(
    tmp_path: Path, count: int, regions: tuple[Region, ...]
) -> None:
    case = write_image(tmp_path / "in" / "a.nii.gz")
    plan = models()[0].plan.model_copy(update={"regions": regions})
    members = models(plan)[-count:]
    ensemble = Ensemble(members, crf=CRF)
    report = predict_ensemble(ensemble, [case], tmp_path / "out", probabilities=True)
    assert report.failed == ()
    expected = by_hand(members, case)
    indices = decode([expected.numpy()], plan.targets, full=1.0)
    made = read_label_map(tmp_path / "out" / "a.nii.gz").array[0]
    assert (made == values_of(indices)).mean() > 0.998
    before = mean_of(members, case).label_map()
    assert (indices != before).mean() > 0.01, "the field must change something"
    with np.load(tmp_path / "out" / "a_probabilities.npz", allow_pickle=False) as stored:
        probabilities = stored["probabilities"][0 if regions else 1 :]
    native = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "a.nii.gz")))
    if not regions:  # what is written is refined: it decodes to the label map
        background = 1 - probabilities.sum(0, dtype=np.float32)
        winner = np.concatenate([background[None], probabilities]).argmax(0)
        assert (values_of(winner) == native).mean() > 0.998


@pytest.mark.parametrize("count", [1, 2])
def test_a_cascade_gets_the_map_of_its_first_stage_as_it_is_and_is_refined_itself(
    tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = write_image(tmp_path / "in" / "a.nii.gz")
    first, last = cascade()
    members = (*models(last.plan), last)[-count:]
    monkeypatch.setattr("selfseg.inference.cascade.load_previous", lambda _: first)
    assert predict_ensemble(Ensemble((first,)), [case], tmp_path / "first").done == ("a",)
    previous = tmp_path / "first" / "a.nii.gz"
    assert len(np.unique(read_label_map(previous).array)) == 3
    report = predict_ensemble(Ensemble(members, crf=CRF), [case], tmp_path / "out")
    assert report.failed == ()
    expected = decode([by_hand(members, case, previous).numpy()], last.plan.targets, full=1.0)
    made = read_label_map(tmp_path / "out" / "a.nii.gz").array[0]
    assert (made == values_of(expected)).mean() > 0.998
    plain = mean_of(members, case, previous).label_map()
    assert (expected != plain).mean() > 0.01, "the field must change something"
    predict_ensemble(Ensemble((first,), crf=CRF), [case], tmp_path / "refined")
    refined = tmp_path / "refined" / "a.nii.gz"
    other = mean_of(members, case, refined).values - mean_of(members, case, previous).values
    assert float(other.abs().mean()) > 0.01, "a refined first stage would tell"


def test_only_the_box_around_the_foreground_is_refined() -> None:
    indices = np.zeros((40, 80, 80), np.uint8)
    indices[20, 30:33, 40] = 1
    crop = Box(lower=(5, 0, 0), upper=(40, 80, 45))
    assert refined_place(indices, (4.0, 1.0, 2.0), crop) == (
        slice(15, 26), slice(10, 53), slice(30, 45),
    )  # fmt: skip
    assert refined_place(np.zeros_like(indices), (4.0, 1.0, 2.0), crop) is None
    outside = Box(lower=(0, 0, 0), upper=(10, 80, 80))
    assert refined_place(indices, (4.0, 1.0, 2.0), outside) is None


def test_pictures_are_refined_in_their_plane(tmp_path: Path) -> None:
    case = write_image(tmp_path / "in" / "a.tif", shape=(20, 18))
    model = models()[0]
    preprocessing = model.configuration.preprocessing.model_copy(update={"axes": (0, 1, 2)})
    flat = model.configuration.model_copy(
        update={"preprocessing": preprocessing, "median_shape": (1.0, 20.0, 18.0)}
    )
    plan = tiny_plan(flat)
    model = Model(Path(), plan, flat, ("0",), (0, 1), model.network, CPU)
    report = predict_ensemble(Ensemble((model,), crf=CRF), [case], tmp_path / "out")
    assert report.failed == ()
    expected = decode([by_hand((model,), case).numpy()], plan.targets, full=1.0)
    made = read_label_map(tmp_path / "out" / "a.tif").array[0]
    assert (made == values_of(expected)).mean() > 0.995


def test_too_little_memory_fails_the_case_with_a_way_out(tmp_path: Path) -> None:
    case = write_image(tmp_path / "in" / "a.nii.gz")
    members = models()
    weights = sum(model.weights_gib for model in members)
    report = predict_ensemble(
        Ensemble(members, crf=CRF), [case], tmp_path / "out", max_memory_gib=weights + 1e-4
    )
    ((name, message),) = report.failed
    assert name == "a"
    for part in ("the dense CRF needs", "--max-memory", "--config"):
        assert part in message
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("limit_gib", [None, 1e-5])
def test_sums_in_scratch_files_are_refined_in_place(
    tmp_path: Path, limit_gib: float | None
) -> None:
    case = write_image(tmp_path / "a.nii.gz")
    model = models()[1]
    prepared = read_case(model, case)
    logits = member_logits(
        model, prepared, inference_options(model, tta=True, step=None), LogitStore()
    )
    preprocessing = model.configuration.preprocessing
    store = LogitStore(MemoryBudget(limit_gib), folder=tmp_path)
    total = ProbabilitySum(model.plan.targets, prepared.record, store)
    total.add(logits, prepared.record, preprocessing.resampling, share=1.0)
    refine_sum(total, case, prepared.record, preprocessing, CRF, room_bytes=1e9)
    torch.testing.assert_close(total.values.float(), by_hand((model,), case), atol=2e-2, rtol=0)


def test_an_image_without_foreground_stays_as_it_is(tmp_path: Path) -> None:
    case = write_image(tmp_path / "in" / "a.nii.gz")
    model = models()[1]
    layer = model.network.layer
    assert isinstance(layer, nn.Conv3d)
    assert layer.bias is not None
    with torch.no_grad():
        layer.bias[0] = 50
    report = predict_ensemble(Ensemble((model,), crf=CRF), [case], tmp_path / "out")
    assert report.failed == ()
    assert not read_label_map(tmp_path / "out" / "a.nii.gz").array.any()


def test_a_copied_folder_with_its_selection_refines(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "elsewhere", tiny_plan())
    (configuration,) = tiny_plan().configurations
    nothing = Estimate(value=0.5, lower=0.4, upper=0.6)
    selection = Selection(
        dataset="phantom", metric="dice", tolerance_mm=1.0, folds=("0",),
        members=(
            Member(
                configuration="3d_fullres", folds=("0",),
                weights=(model_digest(folder, configuration, "0"),),
            ),
        ),
        crf=CRF, postprocessing=(), score=nothing, score_postprocessed=nothing,
        candidates=(), trials=(), decisions=(),
    )  # fmt: skip
    serial.save(selection, folder.selection)
    ensemble = load_ensemble(folder.path, device=CPU)
    assert ensemble.crf == CRF
    assert "then dense CRF" in ensemble.description
    assert load_ensemble(folder.path, configuration="3d_fullres", device=CPU).crf is None
