"""Windows without content, such as air around a body, are given to the network once.

A window in which every channel has one value holds nothing else, so all windows of the same values
get the same logits: nothing is guessed or left out, only not computed again. Clipped CT is full of
them, since air is one value there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from selfseg.inference.window_grid import Index, Windows

Values = tuple[float, ...]


def group_windows(image: Tensor, grid: Windows, *, context: int = 0) -> list[tuple[Index, ...]]:
    """Return all windows: uniform ones of equal values together, every other one alone.

    Args:
        image: What the windows are cut from, (c, z, y, x), with `context` more slices at both ends.
        grid: Where they lie.
        context: Slices before and after a window that the network sees as well.
    """
    known = uniform_values(image, grid, context=context)
    alike: dict[Values, list[Index]] = {}
    groups: list[list[Index]] = []
    for index in grid.windows():
        group = alike.setdefault(known[index], []) if index in known else []
        if not group:
            groups.append(group)
        group.append(index)
    return [tuple(group) for group in groups]


def uniform_values(image: Tensor, grid: Windows, *, context: int = 0) -> dict[Index, Values]:
    """Return the windows in which every channel has one value, and the values."""
    lows = _over_windows(image, grid, context, torch.amin)
    highs = _over_windows(image, grid, context, torch.amax)
    uniform = (lows == highs).all(0)
    if not uniform.any():  # on a GPU the one time that this waits
        return {}
    values, places = lows.cpu(), uniform.cpu().nonzero().tolist()
    return {(z, y, x): tuple(values[:, z, y, x].tolist()) for z, y, x in places}


def _over_windows(
    image: Tensor, grid: Windows, context: int, reduce: Callable[[Tensor, int], Tensor]
) -> Tensor:
    """Return the smallest or largest value in each window, (c, windows along z, y, x)."""
    z, y, x = grid.patch
    # Thin slabs overlap along z in as many places as there are slices: by then little is left.
    for axis, size in ((2, x), (1, y), (0, z + 2 * context)):
        image = _along(image, 1 + axis, grid.starts[axis], size, reduce)
    return image


def _along(
    image: Tensor,
    axis: int,
    starts: Sequence[int],
    size: int,
    reduce: Callable[[Tensor, int], Tensor],
) -> Tensor:
    return torch.stack([reduce(image.narrow(axis, start, size), axis) for start in starts], axis)
