"""Networks wait in main memory and take turns on the device; the result is the same to the bit.

The device is `meta`, which knows what lies on it but holds no values.
"""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from tinymodel import save_model, tiny_configuration, tiny_plan
from torch import Tensor, nn

from selfseg.inference import cascade, members, predictor
from selfseg.inference.ensemble import MeanOfLogits, turn, weights_bytes
from selfseg.inference.logit_store import GIB, LogitStore, MemoryBudget
from selfseg.inference.members import predict_ensemble
from selfseg.inference.model import Ensemble, Model, load_ensemble, load_model
from selfseg.inference.predictor import PredictionReport, predict_cases
from selfseg.io.unlabeled import list_cases
from selfseg.networks.one_hot import OneHotInput
from selfseg.records.dataset import Case

CPU, DEVICE = torch.device("cpu"), torch.device("meta")
FOLDS = ("0", "1", "2", "3", "4")


class Counting(nn.Module):
    """A network of weights that no other has, and what lies on the device while it computes."""

    def __init__(self, seed: int, seen: list[float]) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Conv3d(2, 3, 3, padding=1)
        self.norm = nn.BatchNorm3d(3).eval()
        self.norm.running_mean = torch.randn(3)
        self.requires_grad_(False)
        self.seen = seen

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        self.seen.append(on_device() / weights_bytes(self))
        return (self.norm(self.layer(x)),)


def on_device() -> int:
    """Return the bytes of all weights and buffers of `Counting` networks on the device."""
    shapes = {(3, 2, 3, 3, 3), (3,), ()}
    tensors = (found for found in gc.get_objects() if issubclass(type(found), Tensor))
    here = {id(t): t for t in tensors if t.device == DEVICE and tuple(t.shape) in shapes}
    return sum(tensor.nbytes for tensor in here.values())


def resident_mean(networks: list[nn.Module], x: Tensor) -> Tensor:
    """Return the mean of the logits of networks that all lie where the input is."""
    first, *others = networks
    total: Tensor = first(x)[0].to(torch.float32)
    for network in others:
        total = total + network(x)[0]
    return total / len(networks)


@pytest.mark.parametrize("room", [0.0, float("inf")])
@pytest.mark.parametrize("dims", [2, 3])
def test_turns_give_the_same_logits_to_the_bit(tmp_path: Path, room: float, dims: int) -> None:
    plan = tiny_plan(tiny_configuration("2d" if dims == 2 else "3d_fullres"))
    save_model(tmp_path, plan, folds=FOLDS)
    mean = load_model(tmp_path, device=CPU).network
    assert isinstance(mean, MeanOfLogits)
    x = torch.randn(2, 1, *(16,) * dims)
    expected = resident_mean(list(mean.networks), x)
    with turn(mean, CPU, room):
        for _ in range(2):
            assert torch.equal(mean(x)[0], expected)
    assert torch.equal(mean(x)[0], expected)


def test_one_network_at_a_time_where_there_is_little_room() -> None:
    seen: list[float] = []
    mean = MeanOfLogits([Counting(seed, seen) for seed in range(5)])
    x = torch.empty(1, 2, 4, 4, 4, device=DEVICE)
    with turn(mean, DEVICE, weights_bytes(mean) - 1):
        assert mean(x)[0].shape == (1, 3, 4, 4, 4)
        mean(x)
    assert seen == [1.0] * 10
    assert on_device() == 0
    assert all(tensor.device == CPU for tensor in mean.parameters())


def test_all_networks_of_a_turn_where_there_is_room() -> None:
    seen: list[float] = []
    whole = OneHotInput(MeanOfLogits([Counting(seed, seen) for seed in range(5)]), 1)
    with turn(whole, DEVICE, weights_bytes(whole)):
        whole(torch.empty(1, 2, 4, 4, 4, device=DEVICE))
    assert seen == [5.0] * 5
    assert on_device() == 0


def test_nothing_stays_after_a_failure() -> None:
    mean = MeanOfLogits([Counting(0, []), Counting(1, [])])
    with pytest.raises(RuntimeError), turn(mean, DEVICE, 0.0):
        mean(torch.empty(1, 7, 4, 4, 4, device=DEVICE))
    assert on_device() == 0


def test_loading_puts_nothing_on_the_device(tmp_path: Path) -> None:
    plan = tiny_plan(tiny_configuration("2d"), tiny_configuration("3d_fullres"))
    save_model(tmp_path, plan, folds=FOLDS)
    for name in ("2d", "3d_fullres"):
        loaded = load_ensemble(tmp_path, configuration=name, device=DEVICE)
        (member,) = loaded.members
        assert member.device == DEVICE
        assert {tensor.device for tensor in member.network.parameters()} == {CPU}
        assert loaded.weights_gib == member.weights_gib
        files = tmp_path.glob(f"models/{name}/fold_*/*.safetensors")
        tensors = sum(file.stat().st_size for file in files)
        assert 0.5 * tensors < member.weights_gib * GIB < tensors


@pytest.mark.parametrize(("limit_gib", "folds"), [(None, 5), (1e-6, 1)])
def test_a_member_is_on_the_device_for_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit_gib: float | None, folds: int
) -> None:
    seen: list[float] = []
    models = tuple(model([Counting(seed, seen) for seed in range(5)]) for _ in range(3))

    def logits(network: nn.Module, image: Tensor, **_: object) -> Tensor:
        network(torch.empty(1, 2, 4, 4, 4, device=DEVICE))
        return torch.zeros(3, *image.shape[1:])

    monkeypatch.setattr(predictor, "predict_logits", logits)
    report = predict_ensemble(
        Ensemble(models), cases_in(tmp_path), tmp_path / "out", max_memory_gib=limit_gib
    )
    assert report.done == ("a",)
    assert seen == [folds] * 15
    assert on_device() == 0


def test_weights_count_in_the_memory_limit() -> None:
    part = MemoryBudget(1e-3, 0.75e-3)
    assert part.logits_bytes(CPU) == pytest.approx(0.25e-3 * GIB / 4)
    assert part.export_gib() == pytest.approx(0.25e-3 / 8)
    assert part.device_weights_bytes(CPU) == pytest.approx(0.25e-3 * GIB / 8)
    assert part.part(0.5).logits_bytes(CPU) == pytest.approx(0.125e-3 * GIB / 4)
    work = MemoryBudget(1e-3, 0.5e-3, 0.25e-3)
    assert work.logits_bytes(CPU) == pytest.approx(part.logits_bytes(CPU))
    assert MemoryBudget(1e-3, 2e-3).logits_bytes(CPU) == 0
    assert MemoryBudget(1e-3, 2e-3).export_gib() == 0
    assert MemoryBudget(None, 2e-3).part(0.5).max_gib is None
    assert MemoryBudget(None, 1e9).logits_bytes(CPU) > 0


@pytest.fixture
def budgets(monkeypatch: pytest.MonkeyPatch) -> list[MemoryBudget]:
    """Collect the budgets that predictions work with."""
    made: list[MemoryBudget] = []

    def store(budget: MemoryBudget, folder: Path | None = None) -> LogitStore:
        made.append(budget)
        return LogitStore(budget, folder)

    monkeypatch.setattr(predictor, "LogitStore", store)
    monkeypatch.setattr(members, "LogitStore", store)
    return made


def test_every_member_counts(tmp_path: Path, budgets: list[MemoryBudget]) -> None:
    one, two = model([Counting(0, [])]), model([Counting(1, []), Counting(2, [])])
    predict_cases(one, [], tmp_path, max_memory_gib=2.0)
    predict_ensemble(Ensemble((one, two)), [], tmp_path, max_memory_gib=2.0)
    network = weights_bytes(one.network) / GIB
    assert network > 0
    assert [budget.weights_gib for budget in budgets] == [network, 3 * network]
    assert [budget.max_gib for budget in budgets] == [2.0, 2.0]


def test_a_cascade_that_waits_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = model([Counting(0, []), Counting(1, [])])
    given: list[float | None] = []

    def watch(*_: object, max_memory_gib: float | None = None, **__: object) -> PredictionReport:
        given.append(max_memory_gib)
        return PredictionReport((), ())

    monkeypatch.setattr(cascade, "predict_cases", watch)
    monkeypatch.setattr(cascade, "load_previous", lambda _: model([Counting(3, [])]))
    stage = waiting.configuration.model_copy(update={"previous_stage": "3d_lowres"})
    last = Model(Path(), waiting.plan, stage, FOLDS, (), waiting.network, DEVICE)
    for limit in (2.0, 1e-9, None):
        with cascade.previous_stages([last], [], tmp_path, max_memory_gib=limit):
            pass
    assert given == [2.0 - weights_bytes(waiting.network) / GIB, 0.0, None]


def model(networks: list[nn.Module]) -> Model:
    """Return a model on the device."""
    plan = tiny_plan()
    (configuration,) = plan.configurations
    folds = FOLDS[: len(networks)]
    return Model(Path(), plan, configuration, folds, (), MeanOfLogits(networks), DEVICE)


def cases_in(folder: Path) -> list[Case]:
    """Write one image and return it."""
    image = np.random.default_rng(0).normal(1, 1, (6, 8, 10)).astype(np.float32)
    (folder / "in").mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(image), str(folder / "in" / "a.nii.gz"))
    return list(list_cases(folder / "in", 1))
