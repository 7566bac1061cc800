"""Networks over windows: mirroring, batches of windows, memory, slabs of slices."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from selfseg.errors import DeviceError
from selfseg.inference import logit_store, sliding_window
from selfseg.inference.logit_store import LogitStore, MemoryBudget
from selfseg.inference.mirroring import mirror_combinations, mirrored_mean
from selfseg.inference.sliding_window import predict_logits
from selfseg.inference.window_grid import (
    Windows,
    make_rounded_grid,
    tile_starts,
    window_profile,
)
from selfseg.records.plan import Inference

CPU = torch.device("cpu")


class Voxelwise(nn.Module):
    """A 1x1 convolution: what it gives for a voxel depends on that voxel only."""

    def __init__(self, dims: int, channels: int = 2, outputs: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = (nn.Conv2d if dims == 2 else nn.Conv3d)(channels, outputs, 1)
        self.largest_batch = 0

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        self.largest_batch = max(self.largest_batch, len(x))
        return (self.layer(x),)

    def whole(self, image: Tensor) -> Tensor:
        weight, bias = self.layer.weight.flatten(1), self.layer.bias
        assert bias is not None
        return torch.einsum("kc,czyx->kzyx", weight, image) + bias[:, None, None, None]


class Positional(nn.Module):
    """Gives the position along the last axis: tells whether flips are undone and how averaged."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        ramp = torch.arange(x.shape[-1], dtype=x.dtype)
        return (ramp.expand(len(x), 1, *x.shape[2:]),)


def image(*shape: int, seed: int = 1) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def test_the_plan_chooses_weights_and_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    network, volume = Voxelwise(3), image(2, 6, 6, 9)
    used: list[str] = []

    def note(name: str) -> None:
        used.append(name)

    def rounded(*arguments: Any, **named: Any) -> Windows:
        note("weight")
        return make_rounded_grid(*arguments, **named)

    monkeypatch.setattr(sliding_window, "make_rounded_grid", rounded)
    monkeypatch.setattr(sliding_window, "fine_dtype", lambda device: note("precision"))
    patch = (6, 6, 6)
    predict_logits(network, volume, patch=patch, options=Inference(), outputs=3, device=CPU)
    assert used == []
    options = Inference(window_weight="float16", precision="fine")
    predict_logits(network, volume, patch=patch, options=options, outputs=3, device=CPU)
    assert set(used) == {"weight", "precision"}


@settings(max_examples=15, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 14)] * 3),
    patch=st.tuples(*[st.integers(2, 8)] * 3),
    step=st.sampled_from([0.3, 0.5, 1.0]),
    axes=st.sampled_from([(), (0,), (0, 1, 2)]),
)
def test_a_voxelwise_network_gives_the_same_with_any_windows_3d(
    shape: tuple[int, int, int],
    patch: tuple[int, int, int],
    step: float,
    axes: tuple[int, ...],
) -> None:
    network, x = Voxelwise(3), image(2, *shape)
    options = Inference(step=step, mirror_axes=axes)
    logits = predict_logits(network, x, patch=patch, options=options, outputs=3, device=CPU)
    torch.testing.assert_close(logits, network.whole(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("axes", [(), (1,), (0, 1)])
def test_a_voxelwise_network_gives_the_same_with_any_windows_2d(axes: tuple[int, ...]) -> None:
    network, x = Voxelwise(2), image(2, 5, 13, 10)
    options = Inference(step=0.5, mirror_axes=axes)
    logits = predict_logits(network, x, patch=(8, 6), options=options, outputs=3, device=CPU)
    torch.testing.assert_close(logits, network.whole(x), rtol=1e-4, atol=1e-5)
    assert network.largest_batch > 5


def test_constant_logits_stay_constant() -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            values = torch.tensor([1.0, -2.0]).view(1, 2, 1, 1, 1)
            return (values.expand(len(x), 2, *x.shape[2:]).clone(),)

    logits = predict_logits(
        Constant(), image(1, 9, 17, 20), patch=(4, 8, 8), options=Inference(), outputs=2, device=CPU
    )
    torch.testing.assert_close(logits[0], torch.full((9, 17, 20), 1.0))
    torch.testing.assert_close(logits[1], torch.full((9, 17, 20), -2.0))


def test_weighted_mean_equals_accumulating_and_dividing() -> None:
    """The textbook way: add weighted logits and weights of every window, then divide."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 2, 3, padding=1))
    x, patch = image(1, 11, 14, 9), (6, 8, 6)

    class First(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return (network(x),)

    profile = [window_profile(p, 0.125) for p in patch]
    weight = torch.from_numpy(profile[0][:, None, None] * profile[1][:, None] * profile[2]).float()
    total, weights = torch.zeros(2, 11, 14, 9), torch.zeros(11, 14, 9)
    places = (tile_starts(s, p, 0.5) for s, p in zip(x.shape[1:], patch, strict=True))
    with torch.no_grad():
        for start in itertools.product(*places):
            place = tuple(slice(a, a + p) for a, p in zip(start, patch, strict=True))
            total[:, *place] += network(x[:, *place][None])[0] * weight
            weights[place] += weight
    logits = predict_logits(First(), x, patch=patch, options=Inference(), outputs=2, device=CPU)
    torch.testing.assert_close(logits, total / weights, rtol=1e-4, atol=1e-5)


def test_slices_of_a_2d_network_do_not_depend_on_each_other() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(1, 2, 3, padding=1)

    class First(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return (layer(x),)

    x = image(1, 6, 12, 12)
    options = Inference(mirror_axes=(0, 1))

    def run(part: Tensor) -> Tensor:
        return predict_logits(First(), part, patch=(8, 8), options=options, outputs=2, device=CPU)

    single = torch.cat([run(x[:, z : z + 1]) for z in range(6)], dim=1)
    torch.testing.assert_close(run(x), single)


def test_mirrored_axes_are_all_subsets() -> None:
    assert mirror_combinations(()) == [()]
    assert mirror_combinations((1, 0)) == [(), (0,), (1,), (0, 1)]
    assert len(mirror_combinations((0, 1, 2))) == 8


def test_mirroring_averages_and_mirrors_back() -> None:
    x = torch.zeros(2, 1, 3, 5)
    ramp = torch.arange(5.0).expand(2, 1, 3, 5)
    forward = lambda batch: Positional()(batch)[0]  # noqa: E731
    torch.testing.assert_close(mirrored_mean(forward, x, (0,), limit=1), ramp)
    torch.testing.assert_close(mirrored_mean(forward, x, (0, 1), limit=1), torch.full_like(ramp, 2))


@pytest.mark.parametrize("limit", [1, 2, 3, 8, 100])
def test_mirroring_does_not_depend_on_what_runs_together(limit: int) -> None:
    torch.manual_seed(0)
    layer = nn.Conv3d(1, 2, 3, padding=1)
    calls: list[int] = []

    def forward(batch: Tensor) -> Tensor:
        calls.append(len(batch))
        logits: Tensor = layer(batch)
        return logits

    x = image(2, 1, 4, 5, 6)
    with torch.no_grad():
        result = mirrored_mean(forward, x, (0, 1, 2), limit=limit)
        expected = torch.stack([layer(x.flip(dims)).flip(dims) for dims in _dims((0, 1, 2))]).mean(
            0
        )
    torch.testing.assert_close(result, expected)
    assert sum(calls) == 16
    assert max(calls) <= max(limit, 2)


def _dims(axes: Sequence[int]) -> list[list[int]]:
    return [[axis + 2 for axis in subset] for subset in mirror_combinations(axes)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_scratch_file_or_half_precision_changes_next_to_nothing(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    network, x = Voxelwise(3), image(2, 12, 13, 14)
    voxels = 3 * 12 * 13 * 14
    available = voxels * dtype.itemsize * 4
    monkeypatch.setattr(logit_store, "_available_bytes", lambda _: available)
    store = LogitStore()
    logits = predict_logits(
        network, x, patch=(6, 6, 6), options=Inference(), outputs=3, device=CPU, store=store
    )
    assert logits.dtype == dtype
    torch.testing.assert_close(logits.float(), network.whole(x), rtol=5e-3, atol=5e-3)

    monkeypatch.setattr(logit_store, "_available_bytes", lambda _: 0)
    mapped = predict_logits(
        network, x, patch=(6, 6, 6), options=Inference(), outputs=3, device=CPU, store=store
    )
    assert mapped.dtype == torch.float16
    torch.testing.assert_close(mapped.float(), network.whole(x), rtol=5e-3, atol=5e-3)


def test_a_limit_changes_no_bit_and_a_full_disk_next_to_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, x = Voxelwise(3), image(2, 12, 13, 14)

    def predict(budget: MemoryBudget) -> Tensor:
        return predict_logits(
            network, x, patch=(6, 6, 6), options=Inference(), outputs=3, device=CPU,
            store=LogitStore(budget),
        )  # fmt: skip

    free = predict(MemoryBudget())
    assert torch.equal(predict(MemoryBudget(0.0)), free)
    assert network.largest_batch > 8
    network.largest_batch = 0
    torch.testing.assert_close(predict(MemoryBudget(0.0, windows=1)), free)
    assert network.largest_batch == 1
    usage = shutil.disk_usage("/")._replace(free=3 * 12 * 13 * 14 * 3)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    half = predict(MemoryBudget(0.0))
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), free, rtol=5e-3, atol=5e-3)


def test_batches_shrink_when_memory_runs_out() -> None:
    class Hungry(Voxelwise):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            if len(x) > 3:
                raise torch.OutOfMemoryError("out of memory")
            return super().forward(x)

    network, x = Hungry(2), image(2, 9, 8, 8)
    logits = predict_logits(network, x, patch=(8, 8), options=Inference(), outputs=3, device=CPU)
    torch.testing.assert_close(logits, network.whole(x), rtol=1e-4, atol=1e-5)
    assert network.largest_batch <= 3


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_a_window_that_does_not_fit_is_a_clear_error(error: RuntimeError) -> None:
    class Full(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            raise error

    with pytest.raises(DeviceError, match="does not fit into memory") as caught:
        predict_logits(
            Full(), image(1, 4, 4, 4), patch=(4, 4, 4), options=Inference(), outputs=2, device=CPU
        )
    assert "--device cpu" in caught.value.remedy


def test_other_errors_come_through() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            raise RuntimeError("sizes do not match")

    with pytest.raises(RuntimeError, match="sizes do not match"):
        predict_logits(
            Broken(), image(1, 4, 4, 4), patch=(4, 4, 4), options=Inference(), outputs=2, device=CPU
        )


def test_logits_leave_the_device_as_the_last_resort(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = sliding_window._Runner(Voxelwise(3), (), 3, 0, torch.device("meta"), 1)
    total = torch.zeros(2, device="meta")
    monkeypatch.setattr(torch.Tensor, "copy_", lambda self, other: self)
    store = LogitStore(MemoryBudget(1e-9))  # nothing fits into memory: a file takes them
    moved = sliding_window._make_room(runner, total, store, torch.OutOfMemoryError("full"))
    assert moved.dtype == torch.float32
    assert moved.device.type == "cpu"


class SlabSum(nn.Module):
    """Adds slices with weights that tell their place: what a 2.5D network may do."""

    weights = torch.tensor([1.0, 10.0, 100.0])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return ((x * self.weights[:, None, None]).sum(2, keepdim=True),)


def test_every_slice_is_segmented_from_its_neighbors_and_the_ends_repeat() -> None:
    x = image(1, 4, 9, 11)
    logits = predict_logits(
        SlabSum(), x, patch=(3, 4, 6), options=Inference(), outputs=1, device=CPU, context=1
    )
    before, after = x[:, [0, 0, 1, 2]], x[:, [1, 2, 3, 3]]
    torch.testing.assert_close(logits, before + 10 * x + 100 * after, rtol=1e-4, atol=1e-4)


def test_mirrored_slabs_are_turned_round() -> None:
    x = image(1, 4, 6, 6)
    logits = predict_logits(
        SlabSum(), x, patch=(3, 4, 6), options=Inference(mirror_axes=(0,)), outputs=1, device=CPU,
        context=1,
    )  # fmt: skip
    before, after = x[:, [0, 0, 1, 2]], x[:, [1, 2, 3, 3]]
    torch.testing.assert_close(logits, 50.5 * (before + after) + 10 * x, rtol=1e-4, atol=1e-4)


def test_a_single_slice_is_its_own_context() -> None:
    x = image(1, 1, 5, 6)
    logits = predict_logits(
        SlabSum(), x, patch=(3, 4, 6), options=Inference(), outputs=1, device=CPU, context=1
    )
    torch.testing.assert_close(logits, 111 * x, rtol=1e-4, atol=1e-4)


CUDA = torch.device("cuda")


@pytest.mark.parametrize(
    ("free_gib", "max_gib", "patch_voxels", "outputs", "windows"),
    [
        (7.0, None, 128**3, 3, 1),  # a quarter holds less than one: it is tried all the same
        (24.0, None, 128**3, 3, 2),
        (80.0, None, 128**3, 3, 8),
        (139.0, None, 128**3, 3, 8),
        (139.0, None, 128**3, 118, 4),
        (139.0, 24.0, 128**3, 3, 2),  # --max-memory
        (7.0, None, 64**3, 3, 8),  # as many as keep a GPU busy
        (7.0, None, 512 * 512, 3, 8),
    ],
)
def test_as_many_windows_go_in_a_call_as_free_memory_of_the_device_holds(
    monkeypatch: pytest.MonkeyPatch,
    free_gib: float,
    max_gib: float | None,
    patch_voxels: int,
    outputs: int,
    windows: int,
) -> None:
    monkeypatch.setattr(logit_store, "_available_bytes", lambda _: free_gib * 2**30)
    budget = MemoryBudget(max_gib)
    assert sliding_window._batch_limit(patch_voxels, outputs, CUDA, budget) == windows


def test_free_memory_changes_nothing_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for free_gib in (1.0, 500.0):
        monkeypatch.setattr(logit_store, "_available_bytes", lambda _, g=free_gib: g * 2**30)
        assert sliding_window._batch_limit(128**3, 3, CPU, MemoryBudget()) == 1
        assert sliding_window._batch_limit(32**3, 3, CPU, MemoryBudget()) == 4


@pytest.mark.parametrize(("axes", "windows"), [((), 8), ((0,), 4), ((0, 1, 2), 1)])
def test_mirror_images_fill_a_call_on_cuda(axes: tuple[int, ...], windows: int) -> None:
    network = Voxelwise(3)
    assert sliding_window._Runner(network, axes, 3, 0, CUDA, 8).windows == windows
    assert sliding_window._Runner(network, axes, 3, 0, CPU, 8).windows == 8


@pytest.mark.parametrize("axes", [(), (0, 1, 2)])
def test_calls_of_all_windows_have_one_size_on_cuda(
    monkeypatch: pytest.MonkeyPatch, axes: tuple[int, ...]
) -> None:
    """Five windows, with memory for eight: the device is the CPU but for how it counts."""
    sizes: list[int] = []

    class Counting(Voxelwise):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            sizes.append(len(x))
            return super().forward(x)

    usual = sliding_window._Runner.windows
    cuda = property(lambda self: usual.__get__(replace(self, device=CUDA)))
    for rule, expected in ((usual, None), (cuda, [8] * 5 if axes else [5])):
        sizes.clear()
        monkeypatch.setattr(sliding_window._Runner, "windows", rule)
        monkeypatch.setattr(sliding_window, "_batch_limit", lambda *_: 8)
        logits = predict_logits(
            Counting(3),
            image(2, 8, 8, 24),
            patch=(8, 8, 8),
            options=Inference(mirror_axes=axes),
            outputs=3,
            device=CPU,
        )
        torch.testing.assert_close(
            logits, Voxelwise(3).whole(image(2, 8, 8, 24)), rtol=1e-4, atol=1e-4
        )
        assert expected is None or sizes == expected
