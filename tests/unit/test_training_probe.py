"""What a model does with other data before training, and what the planner makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from plannerfacts import make_dataset, make_fingerprint
from scipy.stats import wasserstein_distance
from selfseg.planners.transfer import choose_probed, nominate_start
from tinymodel import save_model, tiny_configuration, tiny_plan
from trainingdata import write_case
from trainingjobs import CPU

from selfseg.adopting import judge_model
from selfseg.io.images import write_label_map, write_volume
from selfseg.networks.weights import load_weights, save_weights
from selfseg.records import serial
from selfseg.records.dataset import Case, Dataset, File, Label
from selfseg.records.geometry import Geometry, Orientation
from selfseg.records.model import TrainedFold
from selfseg.records.preprocessing import NoNormalization, ZScore
from selfseg.records.source import LabelOverlap, TransferFacts
from selfseg.records.transfer import Start
from selfseg.training import probe as training_probe
from selfseg.training.probe import PERCENTS, probe, wasserstein
from selfseg.training.seen import Seen
from selfseg.training.start import open_source
from selfseg.training.transfer import SourceModel

SHAPE = (8, 16, 16)
NATIVE = Geometry(shape=SHAPE, spacing_mm=(2.0, 1.0, 1.0))
ONES = (1.0, 1.0, 1.0)
START = Start(folder="other", configuration="3d_fullres")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_the_distance_of_quantiles_is_that_of_the_values() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 1, 20_000), rng.normal(0.7, 2, 30_000)
    found = wasserstein(*(np.percentile(v, PERCENTS) for v in (first, second)))
    assert found == pytest.approx(wasserstein_distance(first, second), rel=0.02)
    moved = wasserstein(*(np.percentile(v, PERCENTS) for v in (first, first + 0.3)))
    assert moved == pytest.approx(0.3)


def always_core(tmp_path: Path) -> SourceModel:
    """Return a model that calls every voxel `core`, and whose training image is known."""
    folder = save_model(tmp_path / "model", tiny_plan(dataset="other"))
    files = folder.fold("3d_fullres", "0")
    weights = load_weights(files.weights)
    weights["heads.0.weight"].zero_()
    weights["heads.0.bias"].copy_(torch.tensor([0.0, 9.0, 0.0]))
    save_weights(weights, files.weights)
    trained = serial.load(TrainedFold, files.description)
    serial.save(trained.model_copy(update={"train_cases": ("known",)}), files.description)
    arrays = folder.preprocessed(tiny_plan().configurations[0].preprocessing)
    write_case(arrays, "known", np.zeros((1, *SHAPE)), np.zeros(SHAPE, int))
    return open_source(folder.path)


def write_half(root: Path, labels: tuple[Label, ...]) -> Dataset:
    """Write a case of intensity 2 whose lower half is the first label."""
    reference = np.zeros(SHAPE, np.uint8)
    reference[: SHAPE[0] // 2] = 1
    root.mkdir()
    write_volume(
        np.full(SHAPE, 2.0, np.float32),
        native=NATIVE,
        orientation=Orientation(),
        path=root / "a_0000.nii.gz",
    )
    write_label_map(
        reference, labels, native=NATIVE, orientation=Orientation(), path=root / "a.nii.gz"
    )
    case = Case(id="a", images=(File(path="a_0000.nii.gz"),), reference=File(path="a.nii.gz"))
    return Dataset(
        name="mine",
        root=str(root),
        layout="nnunet",
        channels=("MRI",),
        labels=labels,
        cases=(case,),
    )


def test_overlap_is_counted_by_the_names_of_labels(tmp_path: Path) -> None:
    """Value 3 here and value 1 there are both `core`; it is half of the image."""
    dataset = write_half(tmp_path / "data", (Label(name="Core", value=3),))
    facts = probe(always_core(tmp_path), dataset, ["a"], spacing_ratios=ONES, device=CPU)
    assert [item.name for item in facts.overlaps] == ["core"]
    assert facts.overlaps[0].dice == pytest.approx(2 * 0.5 / 1.5)
    assert facts.intensity_distance == pytest.approx(2.0)  # 2 here, 0 there, not normalized


def test_voxels_without_annotation_do_not_count(tmp_path: Path) -> None:
    """The upper half is not annotated, so all of what counts is `core`."""
    labels = (Label(name="core", value=1),)
    dataset = write_half(tmp_path / "data", labels).model_copy(update={"ignore": 5})
    indices = np.full(SHAPE, 2, np.uint8)
    indices[: SHAPE[0] // 2] = 1
    write_label_map(
        indices,
        (*labels, Label(name="ignore", value=5)),
        native=NATIVE,
        orientation=Orientation(),
        path=tmp_path / "data" / "a.nii.gz",
    )
    facts = probe(always_core(tmp_path), dataset, ["a"], spacing_ratios=ONES, device=CPU)
    assert facts.overlaps[0].dice == pytest.approx(1.0)


def test_cases_that_the_model_was_trained_on_are_not_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = {"a": "1", "b": "2", "c": "3"}
    dataset = write_half(tmp_path / "data", (Label(name="core", value=1),))
    cases = tuple(
        Case(id=name, images=(File(path=name, digest=digest),)) for name, digest in digests.items()
    )
    dataset = dataset.model_copy(update={"cases": cases})
    asked: list[tuple[tuple[str, ...], int]] = []

    def watch(
        source: SourceModel,
        dataset: Dataset,
        cases: tuple[str, ...],
        *,
        seen_cases: int,
        **_: object,
    ) -> TransferFacts:
        asked.append((cases, seen_cases))
        return facts(len(dataset.cases), 0.9).model_copy(update={"seen_cases": seen_cases})

    monkeypatch.setattr(training_probe, "probe", watch)
    source = replace(always_core(tmp_path), seen=Seen(images=frozenset({"1", "3"})))
    fingerprint = make_fingerprint([((2.0, 1.0, 1.0), SHAPE)] * 3)
    verdict = judge_model(source, START, dataset, fingerprint, planner="default", device="cpu")
    assert asked == [(("b",), 2)]
    assert "trained on 2 of them" in verdict.decision.because


def test_without_a_common_label_only_intensities_tell(tmp_path: Path) -> None:
    dataset = write_half(tmp_path / "data", (Label(name="vessel", value=1),))
    facts = probe(always_core(tmp_path), dataset, ["a"], spacing_ratios=ONES, device=CPU)
    assert facts.overlaps == ()
    assert facts.intensity_distance == pytest.approx(2.0)


def test_a_model_of_other_channels_cannot_be_tried(tmp_path: Path) -> None:
    dataset = write_half(tmp_path / "data", (Label(name="core", value=1),))
    two = dataset.model_copy(update={"channels": ("T1", "T2")})
    facts = probe(always_core(tmp_path), two, ["a"], spacing_ratios=ONES, device=CPU)
    assert (facts.overlaps, facts.intensity_distance) == ((), None)


def two_channels(tmp_path: Path) -> SourceModel:
    """Return a model of T1 and T2, normalized otherwise each, whose training image is known."""
    item = tiny_configuration(channels=2)
    options = item.preprocessing.model_copy(update={"normalization": (NoNormalization(), ZScore())})
    item = item.model_copy(update={"preprocessing": options})
    plan = tiny_plan(item, channels=2, dataset="other").model_copy(
        update={"channels": ("T1", "T2")}
    )
    folder = save_model(tmp_path / "model", plan)
    files = folder.fold("3d_fullres", "0")
    trained = serial.load(TrainedFold, files.description)
    serial.save(trained.model_copy(update={"train_cases": ("known",)}), files.description)
    known = np.stack([np.full(SHAPE, 5.0), np.zeros(SHAPE)])
    write_case(folder.preprocessed(options), "known", known, np.zeros(SHAPE, int))
    return open_source(folder.path)


def with_channels(root: Path, names: Sequence[str], taken: Sequence[str] = ()) -> Dataset:
    """Write a case whose channels have these names; `taken` says whose images stand there."""
    dataset = write_half(root, (Label(name="core", value=1), Label(name="rim", value=4)))
    rng = np.random.default_rng(0)
    images = {"T1": rng.normal(5, 3, SHAPE), "T2": rng.normal(50, 20, SHAPE)}
    for number, name in enumerate(taken or names):
        path = root / f"a_{number:04}.nii.gz"
        image = images[name].astype(np.float32)
        write_volume(image, native=NATIVE, orientation=Orientation(), path=path)
    files = tuple(File(path=f"a_{number:04}.nii.gz") for number in range(len(names)))
    case = dataset.cases[0].model_copy(update={"images": files})
    return dataset.model_copy(update={"channels": tuple(names), "cases": (case,)})


def test_channels_are_shown_to_the_model_by_name(tmp_path: Path) -> None:
    """The same case with its channels the other way round gets the same verdict."""
    source = two_channels(tmp_path)

    def tried(name: str, *args: Sequence[str]) -> TransferFacts:
        dataset = with_channels(tmp_path / name, *args)
        return probe(source, dataset, ["a"], spacing_ratios=ONES, device=CPU)

    plain, swapped = tried("plain", ("T1", "T2")), tried("swapped", ("t2", "T1"), ("T2", "T1"))
    wrong = tried("wrong", ("T1", "T2"), ("T2", "T1"))
    assert plain.overlaps
    assert swapped.overlaps == plain.overlaps
    assert swapped.intensity_distance == plain.intensity_distance
    assert wrong.overlaps != plain.overlaps
    assert wrong.intensity_distance != plain.intensity_distance
    assert tried("unlike", ("A", "B"), ("T1", "T2")).overlaps == plain.overlaps  # in order
    for number, names in enumerate([("T2", "FLAIR"), ("T1",), ("T1", "T2", "FLAIR")]):
        found = tried(f"other {number}", names, ("T1", "T2", "T1")[: len(names)])
        assert (found.overlaps, found.intensity_distance) == ((), None)


@pytest.mark.parametrize(
    ("names", "dice", "verdict", "told"),
    [
        (("T2", "T1"), 0.1, "refused", ""),
        (("A", "B"), 0.1, "doubtful", "channels are A, B, the model's T1, T2: taken in order"),
        (("A", "B"), 0.8, "nominated", "taken in order"),
        (("T2", "FLAIR"), None, "doubtful", "the model's T1, T2: so it was not tried"),
        (("T1",), None, "doubtful", "channels are T1, the model's T1, T2: so it was not tried"),
    ],
)
def test_nothing_is_refused_by_channels_of_other_names(
    tmp_path: Path, names: tuple[str, ...], dice: float | None, verdict: str, told: str
) -> None:
    known = facts(20, dice, None).model_copy(update={"channels": names})
    decision = nominate_start(two_channels(tmp_path).facts, known, START).decision
    assert decision.value.startswith(verdict)
    assert told in decision.because
    assert bool(told) is ("the model's T1" in decision.because)
    far = known.model_copy(update={"overlaps": (), "intensity_distance": 2.0})
    value = nominate_start(two_channels(tmp_path).facts, far, START).decision.value
    assert value.startswith("doubtful" if told else "refused")


def facts(cases: int, dice: float | None, distance: float | None = 0.1) -> TransferFacts:
    overlaps = () if dice is None else (LabelOverlap(name="core", dice=dice),)
    return TransferFacts(
        cases=("a",),
        training_cases=cases,
        channels=("channel 0",),
        overlaps=overlaps,
        intensity_distance=distance,
        spacing_ratios=ONES,
    )


@pytest.mark.parametrize(
    ("known", "verdict"),
    [
        (facts(20, 0.7), "nominated"),
        (facts(20, 0.69), "doubtful"),
        (facts(20, 0.2), "doubtful"),
        (facts(20, 0.19), "refused"),
        (facts(200, 0.9), "doubtful"),
        (facts(200, 0.1), "refused"),
        (facts(20, None), "doubtful"),
        (facts(20, None, None), "doubtful"),
        (facts(20, None, 0.25), "doubtful"),
        (facts(20, None, 0.26), "refused"),
        (facts(20, 0.8, 0.51), "nominated"),
        (facts(20, None).model_copy(update={"seen_cases": 20, "cases": ()}), "doubtful"),
        (facts(20, 0.8).model_copy(update={"seen_cases": 5}), "nominated"),
    ],
)
def test_overlap_decides_and_else_intensities(
    tmp_path: Path, known: TransferFacts, verdict: str
) -> None:
    save_model(tmp_path / "model", tiny_plan(dataset="other"))
    found = nominate_start(open_source(tmp_path / "model").facts, known, START)
    assert found.decision.value.startswith(f"{verdict}: other 3d_fullres")
    assert f"{known.training_cases} cases" in found.decision.because
    assert found.is_used is (verdict == "nominated")
    if verdict == "refused":
        assert found.idea is None
    else:
        assert found.idea is not None
        assert (found.idea.configuration, found.idea.start) == ("3d_fullres", START)


def test_probed_cases_are_spread_over_all() -> None:
    assert choose_probed(make_dataset(3)) == ("case_000", "case_001", "case_002")
    assert choose_probed(make_dataset(80)) == tuple(f"case_{n:03}" for n in range(0, 80, 10))
