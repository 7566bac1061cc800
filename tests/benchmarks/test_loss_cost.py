"""What every loss term costs: time and memory against Dice + cross-entropy, share of a step."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import ndimage
from selfseg.planners.families import build_options, choose_family
from selfseg.planners.topology import decide_topology
from targets import plain
from torch import Tensor
from trainingdata import make_configuration

from selfseg.loading.batches import Batch
from selfseg.losses.build import build_loss
from selfseg.losses.shape_code import NO_SHAPES
from selfseg.networks.shape_autoencoder import ShapeAutoencoder, ShapeModel
from selfseg.networks.training_heads import needed_heads
from selfseg.preprocessing.loss_maps import make_map
from selfseg.records.loss import Loss, LossTerm
from selfseg.records.loss_maps import needed_maps
from selfseg.records.loss_terms import (
    AdaptiveCrossEntropyTerm,
    BlobDiceTerm,
    BoundaryTerm,
    CbDiceTerm,
    ClDiceTerm,
    CrossEntropyTerm,
    DiceTerm,
    FocalTerm,
    GeneralizedDiceTerm,
    SegmentTerm,
    SegmentWeightsTerm,
    ShapeCodeTerm,
    SignedDistanceTerm,
    SkeletonRecallTerm,
    SmoothnessTerm,
    TopKTerm,
    TverskyTerm,
)
from selfseg.records.optimization import SGD, Poly, Recipe
from selfseg.training.state import create_state
from selfseg.training.step import train_step

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TARGETS = plain(1)
PLAIN_TERMS: tuple[LossTerm, ...] = (DiceTerm(), CrossEntropyTerm())
SIZES = {"2D, 512², batch 2": (512, 512), "3D, 64³, batch 2": (64, 64, 64)}
RADIUS = 4
ROUNDS = 3
# Those that do no more than a few sums over the voxels: what they may take of a training step.
LIGHT = {"boundary", "segments", "skeleton_recall", "signed_distance", "smoothness"}
LIGHT_SHARE = 0.25


@dataclass(frozen=True)
class Cost:
    """Of a term alone, forward and backward: seconds of every round, bytes at the worst moment."""

    seconds: list[float]
    peak: int


def terms(dims: int) -> dict[str, LossTerm]:
    """Return one of every kind but Dice and cross-entropy; tubes have a radius of 4."""
    chosen: list[LossTerm] = [
        TverskyTerm(), GeneralizedDiceTerm(), AdaptiveCrossEntropyTerm(), TopKTerm(), FocalTerm(),
        SmoothnessTerm(axis_weights=(1.0,) * dims), BoundaryTerm(), BlobDiceTerm(),
        SkeletonRecallTerm(), SegmentTerm(), SignedDistanceTerm(),
        ClDiceTerm(iterations=RADIUS + 1), CbDiceTerm(iterations=RADIUS + 1), SegmentWeightsTerm(),
    ]  # fmt: skip
    found: dict[str, LossTerm] = {term.kind: term for term in chosen}
    return {**found, "segment_weights, every 5": SegmentWeightsTerm(every=5)}


def tubes(shape: tuple[int, ...]) -> np.ndarray:
    """Return a label map with winding tubes of radius 1 to 4."""
    rng = np.random.default_rng(0)
    label = np.zeros(shape, bool)
    for number in range(24 if len(shape) == 2 else 8):
        steps = rng.normal(size=(4 * max(shape), len(shape)))
        heading = ndimage.gaussian_filter1d(steps, 12, axis=0)
        heading /= np.linalg.norm(heading, axis=1, keepdims=True)
        path = rng.uniform(0, shape, len(shape)) + np.cumsum(heading / 2, axis=0)
        line = np.zeros(shape, bool)
        line[tuple(np.rint(path).astype(int).T % np.array(shape)[:, None])] = True
        label |= ndimage.distance_transform_edt(~line) <= 1 + number % RADIUS
    return label.astype(np.int16)


def ball(shape: tuple[int, ...]) -> np.ndarray:
    """Return a label map with a whole organ: what the shape constraint is for."""
    places = np.indices(shape) - np.reshape(shape, (-1, *(1,) * len(shape))) / 2
    inside: np.ndarray = (places**2).sum(axis=0) <= (min(shape) / 3) ** 2
    return inside.astype(np.int16)


def shape_models() -> dict[str, ShapeModel]:
    """Return an autoencoder as the plan has it on a CPU; what it costs does not need training."""
    model = ShapeAutoencoder(32, 64, 0.15).to(DEVICE).eval().requires_grad_(False)
    return dict.fromkeys(TARGETS.names, model)


def maps_of(loss: Loss, label: np.ndarray) -> Tensor | None:
    """Return the maps that a loss needs, (2, maps, *D)."""
    volume, flat = (label[None], True) if label.ndim == 2 else (label, False)
    made = [make_map(volume, m, TARGETS, (1.0,) * 3, flat=flat) for m in needed_maps(loss)]
    if not made:
        return None
    stacked = np.concatenate([part[:, 0] if flat else part for part in made])
    return torch.from_numpy(stacked)[None].repeat(2, *(1,) * stacked.ndim).to(DEVICE)


def timed(work: Callable[[], None]) -> float:
    """Return seconds: of the processor on a CPU, which other programs hardly change."""
    if DEVICE.type == "cpu":
        started_s = time.process_time()
        work()
        return time.process_time() - started_s
    torch.cuda.synchronize()
    started_s = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started_s


def peak_bytes(work: Callable[[], None]) -> int:
    """Return the most memory that is held at once while work is done."""
    if DEVICE.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(profile_memory=True) as profile:
        work()
    held = most = 0
    assert profile.profiler is not None
    results = profile.profiler.kineto_results
    assert results is not None
    found = [event for event in results.events() if event.name() == "[memory]"]
    for event in sorted(found, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def loss_alone(
    loss: Loss, label: np.ndarray, shapes: Mapping[str, ShapeModel] = NO_SHAPES
) -> Callable[[], None]:
    """Return the forward and backward pass of a loss on noisy logits of one label map."""
    module = build_loss(loss, TARGETS, shapes).to(DEVICE)
    target = torch.from_numpy(label.astype(np.int64))[None].repeat(2, *(1,) * label.ndim)
    rng = np.random.default_rng(1)
    channels = 2 + needed_heads(loss, TARGETS).distances
    noise = rng.normal(size=(2, channels, *label.shape)).astype(np.float32)
    noise[:, 1] += 4.0 * label - 2.0
    logits = torch.from_numpy(noise).to(DEVICE).requires_grad_()
    labels, stacked = target.to(DEVICE), maps_of(loss, label)

    def work() -> None:
        module.step += 1
        logits.grad = None
        module((logits,), labels, stacked).backward()

    return work


def whole_step(shape: tuple[int, ...], label: np.ndarray) -> Callable[[], None]:
    """Return a training step of a planned network with Dice + cross-entropy."""
    family, _ = choose_family(DEVICE.type, 8.0)
    network = build_options(family, decide_topology((1,) * len(shape), shape))
    configuration = make_configuration(shape).model_copy(
        update={"network": network, "loss": Loss(terms=PLAIN_TERMS)}
    )
    recipe = Recipe(optimizer=SGD(), schedule=Poly())
    state = create_state(configuration, recipe, channels=1, outputs=2, seed=0, device=DEVICE)
    module = build_loss(configuration.loss, TARGETS).to(DEVICE)
    target = torch.from_numpy(label.astype(np.int64))[None].repeat(2, *(1,) * label.ndim)
    batch = Batch(torch.randn(2, 1, *shape, device=DEVICE), target.to(DEVICE))

    def work() -> None:
        train_step(state, batch, module, learning_rate=0.01, gradient_clip=12.0)

    return work


def measure(shape: tuple[int, ...], label: np.ndarray) -> tuple[dict[str, Cost], float]:
    """Return the cost of every loss alone, and the seconds of a training step."""
    losses = {"dice + cross_entropy": Loss(terms=PLAIN_TERMS)}
    losses |= {name: Loss(terms=(term,)) for name, term in terms(len(shape)).items()}
    works = {name: loss_alone(loss, label) for name, loss in losses.items()}
    if len(shape) == 3:
        term = ShapeCodeTerm(labels=TARGETS.names, start=0.0, ramp=0.0)
        works[term.kind] = loss_alone(Loss(terms=(term,)), ball(shape), shape_models())
    peaks = {name: peak_bytes(work) for name, work in works.items()}  # which warms up as well
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):  # in turn, so that all meet the same noise
        for name, work in works.items():
            if name.endswith("every 5"):  # a mean over its cycle
                seconds[name].append(statistics.fmean(timed(work) for _ in range(5)))
            else:
                seconds[name].append(timed(work))
    step = whole_step(shape, label)
    step()
    step_s = statistics.median(timed(step) for _ in range(2))
    return {name: Cost(seconds[name], peaks[name]) for name in works}, step_s


@pytest.mark.bench
@pytest.mark.parametrize("name", SIZES)
def test_what_every_term_costs(name: str) -> None:
    shape = SIZES[name]
    costs, step_s = measure(shape, tubes(shape))
    base = costs["dice + cross_entropy"]
    base_s = statistics.median(base.seconds)
    print(f"\n{name}, {DEVICE.type}, {torch.get_num_threads()} threads: dice + cross_entropy alone")
    print(f"{1e3 * base_s:.1f} ms, {base.peak / 2**20:.0f} MiB; training step {step_s:.2f} s\n")
    print("| term alone | time | peak memory | of a training step |")
    print("|---|---|---|---|")
    shares = {}
    for term, cost in costs.items():
        ratio = statistics.median(
            mine / other for mine, other in zip(cost.seconds, base.seconds, strict=True)
        )
        shares[term] = statistics.median(cost.seconds) / step_s
        print(f"| `{term}` | {ratio:.1f} × | {cost.peak / base.peak:.1f} × | {shares[term]:.1%} |")
    assert all(share <= LIGHT_SHARE for term, share in shares.items() if term in LIGHT)
