import json
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (its users' name for it)
import torch
from tinymodel import LABELS, save_model, tiny_configuration, tiny_plan
from torch import Tensor, nn

from selfseg.errors import DeviceError, ImageError
from selfseg.inference import case_pipeline
from selfseg.inference.export import Export
from selfseg.inference.logit_store import LogitStore, MemoryBudget
from selfseg.inference.model import Model, load_model
from selfseg.inference.predictor import (
    PredictionReport,
    inference_options,
    predict_cases,
    read_case,
)
from selfseg.io.images import read_label_map
from selfseg.io.unlabeled import list_cases
from selfseg.preprocessing.case import PreparedCase
from selfseg.records.dataset import Case, File
from selfseg.records.geometry import PreprocessedCase
from selfseg.records.plan import Configuration

CPU = torch.device("cpu")


class Thresholds(nn.Module):
    """Class 1 above 0.5, class 2 above 1.5: exact for every voxel."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        value = x[:, :1]
        return (torch.cat([torch.zeros_like(value), value - 0.5, 2 * value - 2], dim=1),)


def oracle(configuration: Configuration | None = None, channels: int = 1) -> Model:
    plan = tiny_plan(*([configuration] if configuration else []), channels=channels)
    return Model(Path(), plan, plan.configurations[0], ("0",), (0, 1, 2), Thresholds(), CPU)


def blocks(seed: int = 0) -> np.ndarray:
    """Values 0, 1, 2 at random; nowhere empty at the border, so that nothing is cropped."""
    volume = np.random.default_rng(seed).integers(0, 3, (6, 20, 18)).astype(np.float32)
    volume[0, 0, 0] = volume[-1, -1, -1] = 1
    return volume


def write(volume: np.ndarray, path: Path, spacing: tuple[float, ...] = (1.0, 1.0, 2.0)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(volume)
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(path))


def expected(volume: np.ndarray) -> np.ndarray:
    values = np.array([0, *(label.value for label in LABELS)])
    return np.asarray(values[volume.astype(int)])


def test_every_case_gets_a_label_map_with_file_values(tmp_path: Path) -> None:
    for index, name in enumerate(("a.nii.gz", "b.nrrd", "c.mha")):
        write(blocks(index), tmp_path / "in" / name)
    cases = list_cases(tmp_path / "in", 1)
    report = predict_cases(oracle(), cases, tmp_path / "out", workers=2)
    assert report == PredictionReport(("a", "b", "c"), ())
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert made == ["a.nii.gz", "b.nrrd", "c.mha"]
    for index, name in enumerate(made):
        label_map = sitk.ReadImage(str(tmp_path / "out" / name))
        assert label_map.GetSpacing() == (1.0, 1.0, 2.0)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(label_map), expected(blocks(index)))


def test_broken_images_are_reported_and_the_others_done(tmp_path: Path) -> None:
    for index, name in enumerate(("a.nii.gz", "b.nii.gz", "c.nii.gz", "d.nii.gz")):
        write(blocks(index), tmp_path / "in" / name)
    data = (tmp_path / "in" / "a.nii.gz").read_bytes()
    (tmp_path / "in" / "a.nii.gz").write_bytes(data[: len(data) // 2])
    broken = blocks()
    broken[2, 3, 4] = np.nan
    write(broken, tmp_path / "in" / "c.nii.gz")
    report = predict_cases(oracle(), list_cases(tmp_path / "in", 1), tmp_path / "out")
    assert sorted(report.done) == ["b", "d"]
    messages = dict(report.failed)
    assert set(messages) == {"a", "c"}
    assert "a.nii.gz" in messages["a"]
    assert "NaN" in messages["c"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["b.nii.gz", "d.nii.gz"]


def test_a_wrong_number_of_channels_is_reported(tmp_path: Path) -> None:
    write(blocks(), tmp_path / "a.nii.gz")
    case = Case(id="a", images=(File(path=str(tmp_path / "a.nii.gz")),))
    model = oracle(tiny_configuration(channels=2), channels=2)
    with pytest.raises(ImageError, match=r"1 channel, but the model needs 2 \(channel 0, chann"):
        read_case(model, case)


def test_an_image_is_never_overwritten_by_its_label_map(tmp_path: Path) -> None:
    write(blocks(), tmp_path / "a.nii.gz")
    before = (tmp_path / "a.nii.gz").read_bytes()
    report = predict_cases(oracle(), list_cases(tmp_path, 1), tmp_path)
    assert report.done == ()
    assert "would overwrite" in report.failed[0][1]
    assert (tmp_path / "a.nii.gz").read_bytes() == before


def test_label_maps_of_lossy_images_are_png(tmp_path: Path) -> None:
    export = Export(oracle(), tmp_path, LogitStore())
    for image, label_map in (("a.jpg", "a.png"), ("b.JPEG", "b.png"), ("c.bmp", "c.bmp")):
        case = Case(id=image[0], images=(File(path=f"/data/{image}"),))
        assert export.path(case).name == label_map


def test_results_do_not_depend_on_the_memory_limit(tmp_path: Path) -> None:
    volume = blocks()
    write(volume, tmp_path / "in" / "a.nii.gz")
    cases = list_cases(tmp_path / "in", 1)
    for limit in (None, 1.0, 1e-6):
        predict_cases(oracle(), cases, tmp_path / "out", max_memory_gib=limit)
        made = read_label_map(tmp_path / "out" / "a.nii.gz")
        assert set(np.unique(made.array)) == {0, 1, 4}
        label_map = sitk.ReadImage(str(tmp_path / "out" / "a.nii.gz"))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(label_map), expected(volume))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.nii.gz"]


def test_probabilities_of_a_former_prediction_do_not_stay(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(blocks(), tmp_path / "in" / f"{name}.nii.gz")
    cases = list_cases(tmp_path / "in", 1)
    predict_cases(oracle(), cases, tmp_path / "out", probabilities=True)
    predict_cases(oracle(), cases[:1], tmp_path / "out")
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert made == ["a.nii.gz", "b.nii.gz", "b_probabilities.npz"]


def test_probabilities_are_in_the_axes_of_the_file(tmp_path: Path) -> None:
    volume = blocks()
    write(volume, tmp_path / "in" / "a.nii.gz")
    cases = list_cases(tmp_path / "in", 1)
    predict_cases(oracle(), cases, tmp_path / "out", probabilities=True)
    with np.load(tmp_path / "out" / "a_probabilities.npz", allow_pickle=False) as stored:
        assert stored["labels"].tolist() == ["background", "core", "rim"]
        probabilities = stored["probabilities"]
    assert probabilities.dtype == np.float16
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=2e-3)
    np.testing.assert_array_equal(probabilities.argmax(axis=0), volume)


def test_trained_weights_predict_the_same_from_disk_and_in_memory(tmp_path: Path) -> None:
    save_model(tmp_path / "model", tiny_plan(), folds=("0", "1"))
    write(blocks(), tmp_path / "in" / "a.nii.gz")
    cases = list_cases(tmp_path / "in", 1)
    for folder in ("first", "second"):
        model = load_model(tmp_path / "model", device=CPU)
        predict_cases(model, cases, tmp_path / folder, tta=True)
    first, second = (read_label_map(tmp_path / f / "a.nii.gz").array for f in ("first", "second"))
    np.testing.assert_array_equal(first, second)


def test_options_of_the_user_replace_the_plan() -> None:
    model = oracle()
    assert inference_options(model, tta=True, step=None) == model.configuration.inference
    assert inference_options(model, tta=False, step=0.8).mirror_axes == ()
    assert inference_options(model, tta=False, step=0.8).step == 0.8


def run_pipeline(
    count: int,
    prepare: Callable[[Case], PreparedCase],
    compute: Callable[[PreparedCase], Tensor],
    write: Callable[[Case, PreprocessedCase, Tensor], None],
) -> list[case_pipeline.Outcome[Case]]:
    cases = [Case(id=str(index), images=()) for index in range(count)]
    return list(case_pipeline.run_pipeline(cases, prepare, lambda _, p: compute(p), write, 2))


def test_few_cases_are_in_flight_at_once() -> None:
    lock, held, most = threading.Lock(), {"images": 0, "logits": 0}, {"images": 0, "logits": 0}

    def count(what: str, by: int) -> None:
        with lock:
            held[what] += by
            most[what] = max(most[what], held[what])

    template = _prepared()

    def prepare(case: Case) -> PreparedCase:
        count("images", 1)
        return template

    def compute(prepared: PreparedCase) -> Tensor:
        count("images", -1)
        count("logits", 1)
        return torch.zeros(1)

    def write(case: Case, record: PreprocessedCase, logits: Tensor) -> None:
        threading.Event().wait(0.01)
        count("logits", -1)

    outcomes = run_pipeline(12, prepare, compute, write)
    assert [outcome.item.id for outcome in outcomes] == [str(index) for index in range(12)]
    assert all(outcome.problem is None for outcome in outcomes)
    assert most["images"] <= case_pipeline.IN_FLIGHT + 1
    assert most["logits"] <= case_pipeline.IN_FLIGHT + 1


@pytest.mark.parametrize("where", ["prepare", "compute", "write"])
def test_exhausted_memory_and_full_disks_fail_one_case_only(where: str) -> None:
    template = _prepared()
    errors = {"1": MemoryError("no room"), "2": OSError(28, "No space left on device")}
    current: list[str] = []

    def fail(step: str, case: str) -> None:
        if step == where and case in errors:
            raise errors[case]

    def prepare(case: Case) -> PreparedCase:
        fail("prepare", case.id)
        return PreparedCase(
            template.image, None, (), template.record.model_copy(update={"id": case.id})
        )

    def compute(prepared: PreparedCase) -> Tensor:
        fail("compute", prepared.record.id)
        current.append(prepared.record.id)
        return torch.zeros(1)

    def write(case: Case, record: PreprocessedCase, logits: Tensor) -> None:
        fail("write", case.id)

    problems = {o.item.id: o.problem for o in run_pipeline(4, prepare, compute, write)}
    assert problems["0"] is None
    assert problems["3"] is None
    assert isinstance(problems["1"], DeviceError)
    assert "No space left" in str(problems["2"])


def test_bugs_come_through() -> None:
    def prepare(case: Case) -> PreparedCase:
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        run_pipeline(3, prepare, lambda p: torch.zeros(1), lambda c, r, t: None)


def test_scratch_files_leave_nothing_behind(tmp_path: Path) -> None:
    store = LogitStore(MemoryBudget(0.0), folder=tmp_path)
    logits = store.allocate((2, 3, 4, 5), CPU)
    logits += 1.5
    with store.reading(logits[:, 1:]):
        threading.Event().wait(0.12)
    assert bool((logits == 1.5).all())
    assert list(tmp_path.iterdir()) == []


def _prepared() -> PreparedCase:
    record = PreprocessedCase.model_validate_json(
        json.dumps(
            {
                "id": "x",
                "source": "",
                "native": {"shape": [1, 1, 1], "spacing_mm": [1, 1, 1]},
                "orientation": {},
                "axes": [0, 1, 2],
                "crop": {"lower": [0, 0, 0], "upper": [1, 1, 1]},
                "shape_before_crop": [1, 1, 1],
                "spacing_before_mm": [1, 1, 1],
                "shape": [1, 1, 1],
                "spacing_mm": [1, 1, 1],
            }
        )
    )
    return PreparedCase(np.zeros((1, 1, 1, 1), np.float32), None, (), record)


def test_probabilities_of_turned_and_flipped_files_are_where_their_labels_are(
    tmp_path: Path,
) -> None:
    turned = sitk.GetImageFromArray(blocks().transpose(2, 0, 1))
    turned.SetDirection((0.0, 1.0, 0.0, 0.0, 0.0, -1.0, -1.0, 0.0, 0.0))
    (tmp_path / "in").mkdir()
    sitk.WriteImage(turned, str(tmp_path / "in" / "a.nii.gz"))
    predict_cases(oracle(), list_cases(tmp_path / "in", 1), tmp_path / "out", probabilities=True)
    label = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "a.nii.gz")))
    with np.load(tmp_path / "out" / "a_probabilities.npz") as stored:
        winner = stored["probabilities"].argmax(0)
    values = np.array([0, *(item.value for item in LABELS)])
    assert (values[winner] == label).mean() > 0.99  # float16 may tie where logits do not


def test_a_picture_is_no_volume(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    picture = np.zeros((20, 18), np.uint8)
    picture[5:9, 4:9] = 1
    sitk.WriteImage(sitk.GetImageFromArray(picture), str(tmp_path / "in" / "a.png"))
    report = predict_cases(oracle(), list_cases(tmp_path / "in", 1), tmp_path / "out")
    ((case, message),) = report.failed
    assert case == "a"
    assert "a 2D picture, but the model segments volumes" in message
