"""Windows of one value: found exactly, computed once, and with the result of computing each."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from selfseg.inference import sliding_window
from selfseg.inference.sliding_window import predict_logits
from selfseg.inference.uniform_windows import group_windows, uniform_values
from selfseg.inference.window_grid import Index, Windows, make_grid
from selfseg.inference.window_memory import LiveBytes
from selfseg.records.plan import Inference

CPU = torch.device("cpu")
AIR = -2.5


class Counted(nn.Module):
    """A convolution that sees neighbors and the window's border; counts what it is given."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = (nn.Conv2d if dims == 2 else nn.Conv3d)(1, 2, 3, padding=1)
        self.windows = 0

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        self.windows += len(x)
        return (self.layer(x),)


class Middle(nn.Module):
    """Gives the sum of a slab's slices: what a network with context sees."""

    def __init__(self) -> None:
        super().__init__()
        self.windows = 0

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        self.windows += len(x)
        return (x.sum(2, keepdim=True),)


def body_in_air(*shape: int) -> Tensor:
    """Return an image with one textured corner and air elsewhere."""
    image = torch.full((1, *shape), AIR)
    texture = np.random.default_rng(0).normal(size=[size // 3 for size in shape])
    z, y, x = texture.shape
    image[0, :z, :y, :x] = torch.from_numpy(texture.astype(np.float32))
    return image


def one_by_one(image: Tensor, grid: Windows, *, context: int = 0) -> list[tuple[Index, ...]]:
    return [(index,) for index in grid.windows()]


@pytest.mark.parametrize("weight", ["exact", "float16"])
@pytest.mark.parametrize(("patch", "axes"), [((8, 8, 8), (0, 2)), ((8, 8), (1,))])
def test_the_result_is_that_of_computing_each(
    patch: tuple[int, ...],
    axes: tuple[int, ...],
    weight: Literal["exact", "float16"],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image, network = body_in_air(18, 20, 22), Counted(len(patch))
    options = Inference(mirror_axes=axes, window_weight=weight)
    found = predict_logits(network, image, patch=patch, options=options, outputs=2, device=CPU)
    fewer, network.windows = network.windows, 0
    monkeypatch.setattr(sliding_window, "group_windows", one_by_one)
    expected = predict_logits(network, image, patch=patch, options=options, outputs=2, device=CPU)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert fewer < 0.6 * network.windows


def test_what_lies_in_the_context_counts() -> None:
    image = torch.full((1, 9, 8, 8), AIR)
    image[0, 4] = 1.0
    network = Middle()
    logits = predict_logits(
        network, image, patch=(3, 8, 8), options=Inference(), outputs=1, device=CPU, context=1
    )
    sums = torch.tensor([AIR * 3] * 3 + [2 * AIR + 1] * 3 + [AIR * 3] * 3)
    torch.testing.assert_close(logits[0, :, 0, 0], sums)
    assert network.windows == 4  # three that see the bright slice, and one of air


def test_several_windows_with_texture_are_never_taken_for_equal() -> None:
    image = torch.ones(1, 4, 4, 8)
    image[0, 1, 1, 1] = image[0, 1, 1, 5] = 2.0  # equal, but not of one value
    grid = make_grid((4, 4, 8), (4, 4, 4), step=1.0, sigma=0.125)
    assert group_windows(image, grid) == [((0, 0, 0),), ((0, 0, 1),)]


def test_values_are_never_taken_for_the_number_of_a_window() -> None:
    image = torch.zeros(3, 4, 4, 12)
    image[:, 1, 1, 1] = 1.0  # the window (0, 0, 0) has texture, (0, 0, 2) the values 0, 0, 0
    grid = make_grid((4, 4, 12), (4, 4, 4), step=1.0, sigma=0.125)
    assert group_windows(image, grid) == [((0, 0, 0),), ((0, 0, 1), (0, 0, 2))]


def test_air_of_other_values_is_other_air_and_undefined_values_are_none() -> None:
    image = torch.zeros(2, 4, 4, 16)
    image[1, :, :, 4:8] = 1.0
    image[1, :, :, 12:] = torch.nan
    grid = make_grid((4, 4, 16), (4, 4, 4), step=1.0, sigma=0.125)
    values = uniform_values(image, grid)
    assert values == {(0, 0, 0): (0.0, 0.0), (0, 0, 1): (0.0, 1.0), (0, 0, 2): (0.0, 0.0)}
    assert group_windows(image, grid) == [
        ((0, 0, 0), (0, 0, 2)),
        ((0, 0, 1),),
        ((0, 0, 3),),
    ]


@settings(max_examples=50, deadline=None)
@given(
    st.tuples(*(st.integers(3, 9),) * 3), st.tuples(*(st.integers(1, 3),) * 3),
    st.integers(1, 3), st.integers(0, 2), st.integers(0, 2**16),
)  # fmt: skip
def test_uniform_windows_are_those_of_a_plain_search(
    shape: tuple[int, int, int],
    patch: tuple[int, int, int],
    channels: int,
    context: int,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    deep = (shape[0] + 2 * context, *shape[1:])
    image = torch.from_numpy((rng.random((channels, *deep)) < 0.03).astype(np.float32))
    grid = make_grid(shape, patch, step=0.5, sigma=0.125)
    expected = {}
    for index in grid.windows():
        z, y, x = grid.place(index)
        window = image[:, z.start : z.stop + 2 * context, y, x].flatten(1)
        if all(len(channel.unique()) == 1 for channel in window):
            expected[index] = tuple(window[:, 0].tolist())
    assert uniform_values(image, grid, context=context) == expected
    groups = group_windows(image, grid, context=context)
    assert sorted(index for group in groups for index in group) == sorted(grid.windows())
    for group in groups:
        assert len(group) == 1 or len({expected[index] for index in group}) == 1


@pytest.mark.parametrize(("patch", "context"), [((1, 32, 32), 3), ((16, 16, 16), 0)])
def test_finding_them_takes_less_than_a_copy_of_the_image(
    patch: tuple[int, int, int], context: int
) -> None:
    image = body_in_air(40 + 2 * context, 64, 64)
    grid = make_grid((40, 64, 64), patch, step=0.5, sigma=0.125)
    with LiveBytes([image]) as live:
        uniform_values(image, grid, context=context)
    assert live.most < image.nbytes


def test_where_there_is_no_memory_to_find_them_none_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_much(*_: object, **__: object) -> list[tuple[Index, ...]]:
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"
        )

    monkeypatch.setattr(sliding_window, "group_windows", too_much)
    network, options = Counted(3), Inference(mirror_axes=(), step=1.0)
    predict_logits(
        network, body_in_air(16, 16, 16), patch=(8, 8, 8), options=options, outputs=2, device=CPU
    )
    assert network.windows == 8
