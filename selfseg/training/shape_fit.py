"""Make a shape model from the masks of some cases, and judge it on masks it was not made from."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from selfseg.errors import SelfSegError
from selfseg.networks.shape_autoencoder import (
    LinearShape,
    ShapeAutoencoder,
    code_length,
    fit_linear,
)
from selfseg.networks.shape_grid import dice
from selfseg.records.shape_model import ShapeModelRecord, ShapeOptions
from selfseg.training.shape_draws import deformed, spoiled

FINAL_LEARNING_RATE = 1e-5
FEWEST_CASES = 3  # fewer shapes can neither be described nor judged
FEWEST_HELD_OUT = 2


@dataclass(frozen=True)
class Shapes:
    """The masks of one label in their boxes, in [0, 1].

    Attributes:
        name: Label or region.
        cases: Ids.
        maps: (n, 1, g, g, g).
        fine: (n, 1, 2g, 2g, 2g), from which deformed copies are cut.
    """

    name: str
    cases: tuple[str, ...]
    maps: Tensor
    fine: Tensor


@dataclass(frozen=True)
class Fitted:
    """A model, and the Dice of its renderings of shapes that it was not made from."""

    model: LinearShape | ShapeAutoencoder
    held_out: tuple[float, ...]
    iterations: int


def fit_shape(
    shapes: Shapes,
    options: ShapeOptions,
    *,
    seed: int,
    limit_s: float,
    device: torch.device,
    tick: Callable[[int, str], None],
) -> tuple[ShapeModelRecord, nn.Module | None]:
    """Make and judge the model of one label; None in place of one that nothing could be made of.

    Args:
        shapes: Of the training cases.
        options: How.
        seed: Of initial weights and all random shapes.
        limit_s: Most that it may take.
        device: Where to compute.
        tick: Told the iterations made so far, and a note.
    """
    count = len(shapes.cases)
    linear = count <= options.linear_cases
    if count < FEWEST_CASES:
        return _record(shapes, options, None, linear=linear, code=0), None
    if linear:
        fitted = _fit_linear(shapes, options, seed)
        code = len(fitted.model.deviations) if isinstance(fitted.model, LinearShape) else 0
    else:
        code = code_length(count)
        fitted = _fit_autoencoder(
            shapes, options, code, seed=seed, limit_s=limit_s, device=device, tick=tick
        )
    return _record(shapes, options, fitted, linear=linear, code=code), fitted.model


def _record(
    shapes: Shapes, options: ShapeOptions, fitted: Fitted | None, *, linear: bool, code: int
) -> ShapeModelRecord:
    held_out = fitted.held_out if fitted else ()
    mean = float(np.mean(held_out)) if held_out else 0.0
    accepted = fitted is not None and mean >= options.least_dice
    if fitted is None:
        because = f"only {len(shapes.cases)} usable training cases (asked: {FEWEST_CASES})"
    else:
        because = (
            f"renders {len(held_out)} shapes that it was not made from with a mean Dice of "
            f"{mean:.4f} (asked: at least {options.least_dice:g})"
        )
    return ShapeModelRecord(
        name=shapes.name,
        kind="linear" if linear else "autoencoder",
        code=code,
        cases=shapes.cases,
        iterations=fitted.iterations if fitted else 0,
        held_out=held_out,
        dice=mean,
        low=float(np.percentile(held_out, options.low_percentile)) if held_out else 0.0,
        accepted=accepted,
        because=because,
    )


def _fit_linear(shapes: Shapes, options: ShapeOptions, seed: int) -> Fitted:
    """Fit to all shapes and their deformed copies; judge by leaving out each shape with its own."""
    generator = torch.Generator().manual_seed(seed)
    grid = shapes.maps.shape[-1]
    copies = [
        deformed(shapes.fine.float(), grid, options.box_margin, generator)
        for _ in range(options.linear_copies)
    ]
    every = torch.stack([shapes.maps, *copies], dim=1)  # (n, 1 + copies, 1, g, g, g)
    held_out = []
    for index in range(len(every)):
        kept = [other for other in range(len(every)) if other != index]
        model = _linear(every[kept], options)
        held_out.append(_score(model, shapes.maps[index : index + 1])[0])
    model = _linear(every, options)
    return Fitted(model, tuple(held_out), 0)


def _linear(every: Tensor, options: ShapeOptions) -> LinearShape:
    """Fit to shapes and their copies (n, 1 + copies, 1, g, g, g)."""
    return fit_linear(every.flatten(0, 1), variance=options.variance, margin=options.box_margin)


def _fit_autoencoder(
    shapes: Shapes,
    options: ShapeOptions,
    code: int,
    *,
    seed: int,
    limit_s: float,
    device: torch.device,
    tick: Callable[[int, str], None],
) -> Fitted:
    """Train on most shapes to mend spoiled ones; judge on the rest, which it never sees."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(shapes.cases), generator=generator)
    aside = max(round(options.held_out_share * len(order)), FEWEST_HELD_OUT)
    held_out, fine = order[:aside], shapes.fine[order[aside:]]
    model = _seeded(options, code, seed).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.learning_rate)
    started_s = time.perf_counter()
    done, progress = 0, 0.0
    while progress < 1:
        chosen = torch.randint(0, len(fine), (options.batch,), generator=generator)
        clean = deformed(fine[chosen].to(device).float(), model.grid, options.box_margin, generator)
        loss = _mending_loss(model.logits(spoiled(clean, generator)), (clean > 0.5).float())
        rate = 0.5 * (1 + np.cos(np.pi * progress)) * options.learning_rate
        for group in optimizer.param_groups:
            group["lr"] = max(float(rate), FINAL_LEARNING_RATE)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        done += 1
        # A time limit can only shorten: without one, the same seed gives the same model.
        used = (time.perf_counter() - started_s) / limit_s
        progress = max(done / options.iterations, used)
        tick(int(progress * options.iterations), f"{shapes.name}, {done} iterations")
    model.eval().requires_grad_(False)
    if not all(bool(value.isfinite().all()) for value in model.state_dict().values()):
        raise SelfSegError(
            f"shape model of {shapes.name}: the loss is not a number",
            remedy="Lower shapes.learning_rate in the plan.",
        )
    scores = _score(model, shapes.maps[held_out].to(device))
    return Fitted(model.cpu(), scores, done)


def _seeded(options: ShapeOptions, code: int, seed: int) -> ShapeAutoencoder:
    """Return an untrained model that depends on the seed only; other random streams stay put."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ShapeAutoencoder(options.grid, code, options.box_margin)


def _mending_loss(logits: Tensor, clean: Tensor) -> Tensor:
    """Return Dice loss plus cross-entropy of a rendering against the clean mask."""
    p, y = logits.sigmoid().flatten(1), clean.flatten(1)
    overlap = (2 * (p * y).sum(1) + 1) / (p.sum(1) + y.sum(1) + 1)
    return 1 - overlap.mean() + F.binary_cross_entropy_with_logits(logits, clean)


@torch.no_grad()
def _score(model: LinearShape | ShapeAutoencoder, maps: Tensor) -> tuple[float, ...]:
    """Return the Dice between shapes (n, 1, g, g, g) and their renderings."""
    scores: Sequence[float] = dice(maps, model.reconstruct(maps)).tolist()
    return tuple(scores)
