"""The dense CRF: against sums over all pairs, on phantoms, and by its free energy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from selfseg.postprocessing.crf import (
    Method,
    build_kernels,
    fitting_method,
    mean_field,
    refine,
    refine_foreground,
    unary_logits,
)
from selfseg.postprocessing.crf_window import (
    normalized,
    smooth_filter,
    window_filter,
    window_offsets,
)
from selfseg.records.crf import CrfGrid, DenseCrf

METHODS: tuple[Method, ...] = ("window", "lattice")
OPTIONS = DenseCrf(theta_intensity=0.5)


def random_case(
    shape: Sequence[int], labels: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Return random probabilities (labels, *shape) and a random image (1, *shape)."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((labels, *shape), generator=generator, dtype=dtype)
    return logits.softmax(0), torch.randn((1, *shape), generator=generator, dtype=dtype)


def disc(size: int, radius: float, axes: int = 2) -> Tensor:
    """Return a mask of a disc or ball in the middle."""
    places = torch.stack(
        torch.meshgrid(*[torch.arange(size) - size / 2 + 0.5] * axes, indexing="ij")
    )
    return places.square().sum(0) < radius**2


def two_labels(mask: Tensor, certainty: float) -> Tensor:
    """Return probabilities of background and label 1."""
    label = torch.where(mask, certainty, 1 - certainty)
    return torch.stack([1 - label, label])


def dice(a: Tensor, b: Tensor) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def all_pairs(shape: Sequence[int], spacing_mm: Sequence[float], theta_mm: float) -> Tensor:
    """Return squared distances in standard deviations between all voxels."""
    axes = [
        torch.arange(n, dtype=torch.float64) * h for n, h in zip(shape, spacing_mm, strict=True)
    ]
    places = (
        torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, len(shape)) / theta_mm
    )
    return torch.cdist(places, places) ** 2


# --- filters ---------------------------------------------------------------------------------


def test_window_is_the_sum_over_all_pairs_where_it_covers_them() -> None:
    shape, spacing_mm, theta_mm = (3, 5, 6), (2.5, 1.0, 0.8), 4.0
    values, _ = random_case(shape)
    features = torch.cat([random_case(shape, seed=1)[1], random_case(shape, seed=2)[1]])
    pairs = all_pairs(shape, spacing_mm, theta_mm)
    intensity = features.flatten(1).T
    kernel = torch.exp(-0.5 * (pairs + torch.cdist(intensity, intensity) ** 2))
    expected = (values.flatten(1) @ kernel).reshape(values.shape)
    found = window_filter(features, theta_mm, spacing_mm, radius=15)(values)
    torch.testing.assert_close(found, expected)


def test_smoothing_is_the_sum_over_all_pairs() -> None:
    shape, spacing_mm, theta_mm = (3, 5, 7), (6.0, 1.0, 0.8), 4.1
    values, _ = random_case(shape)
    kernel = torch.exp(-0.5 * all_pairs(shape, spacing_mm, theta_mm))
    expected = (values.flatten(1) @ kernel).reshape(values.shape)
    torch.testing.assert_close(smooth_filter(theta_mm, spacing_mm)(values), expected)


def test_smoothing_is_no_convolution_which_a_gpu_would_round() -> None:
    used: set[str] = set()

    class Note(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            used.add(func.__name__)
            return func(*args, **(kwargs or {}))

    with Note():
        smooth_filter(2.0, (1.0, 1.0))(random_case((6, 5))[0])
    assert "addcmul_" in used
    assert not [name for name in used if name.startswith("conv")]


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0), (1.0, 4.0), (0.7, 0.7, 5.0), (8.0, 1.0, 1.0)])
def test_ring_continues_the_window_without_gap_or_overlap(spacing_mm: tuple[float, ...]) -> None:
    theta_mm = 10.0
    offsets = window_offsets(theta_mm, spacing_mm, (99,) * len(spacing_mm), 5)
    pairs = {offset for offset, _ in offsets}
    assert len(pairs) == len(offsets)
    assert not any(tuple(-step for step in offset) in pairs for offset in pairs)
    reach = [max(abs(offset[axis]) for offset in pairs) for axis in range(len(spacing_mm))]
    covered = [
        2 * (r + 1) + 1 if math.floor(3 * theta_mm / h + 1e-6) > 5 else 2 * r + 1
        for r, h in zip(reach, spacing_mm, strict=True)
    ]
    assert 1 + 2 * sum(weight for _, weight in offsets) == math.prod(covered)
    assert all(r * h <= 3 * theta_mm + 1e-6 for r, h in zip(reach, spacing_mm, strict=True))


def test_window_with_its_ring_comes_near_the_whole_gaussian() -> None:
    image = torch.zeros((1, 40, 40), dtype=torch.float64)
    image[:, :, 20:] = 2
    image += 0.1 * random_case((40, 40))[1]
    values = two_labels(disc(40, 11), 0.9).double()
    whole = normalized(window_filter(image, 5.0, (1.0, 1.0), radius=15), image)(values)
    ringed = normalized(window_filter(image, 5.0, (1.0, 1.0)), image)(values)
    assert float((ringed - whole).norm() / whole.norm()) < 0.03


def test_normalization_is_symmetric() -> None:
    _, image = random_case((6, 7))
    kernel = normalized(window_filter(image, 2.0, (1.0, 1.0)), image)
    unit = torch.eye(42, dtype=torch.float64).reshape(42, 6, 7)
    matrix = kernel(unit).reshape(42, 42)
    torch.testing.assert_close(matrix, matrix.T)
    assert float(torch.linalg.eigvalsh(matrix).max()) <= 1 + 1e-9


# --- (i) to (vii): what refinement must and must not do -----------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_even_probabilities_stay_even_and_constant_ones_keep_their_label(method: Method) -> None:
    _, image = random_case((4, 6, 5))
    kernels = build_kernels(image, (2.0, 1.0, 1.0), OPTIONS, method=method)
    even = torch.full((3, 4, 6, 5), 1 / 3, dtype=torch.float64)
    found = mean_field(unary_logits(even), kernels, (5.0, 1.0), iterations=5)
    torch.testing.assert_close(found, even)
    constant = torch.tensor([0.3, 0.3, 0.4]).double().reshape(3, 1, 1, 1).expand_as(even)
    refined = refine(constant, image, (2.0, 1.0, 1.0), OPTIONS, method=method)
    assert bool((refined.argmax(0) == 2).all())
    assert float(refined[2].min()) >= 0.4


def test_without_weights_probabilities_stay() -> None:
    probabilities, image = random_case((4, 6, 5))
    options = OPTIONS.model_copy(update={"w_appearance": 0.0, "w_smooth": 0.0})
    found = refine(probabilities, image, (1.0, 1.0, 1.0), options)
    torch.testing.assert_close(found, probabilities, rtol=0, atol=2e-5)


def test_confidence_softens_towards_even() -> None:
    probabilities = torch.tensor([[1.0], [0.0]])
    found = unary_logits(probabilities, confidence=0.8).exp()
    torch.testing.assert_close(found, torch.tensor([[0.9], [0.1]]))


@pytest.mark.parametrize("method", METHODS)
def test_salt_in_a_homogeneous_disc_is_removed(method: Method) -> None:
    mask = disc(32, 11)
    noise = torch.rand(mask.shape, generator=torch.Generator().manual_seed(0)) < 0.05
    image = mask.double()[None]
    image = image + 0.05 * random_case(mask.shape)[1]
    options = OPTIONS.model_copy(update={"w_appearance": 3.0})
    noisy = two_labels(mask ^ noise, 0.85)
    found = refine(noisy, image, (1.0, 1.0), options, method=method)
    assert bool((noisy.argmax(0).bool() != mask).any())
    assert torch.equal(found.argmax(0).bool(), mask)


@pytest.mark.parametrize("method", METHODS)
def test_a_displaced_probability_edge_moves_to_the_intensity_edge(method: Method) -> None:
    image = torch.zeros((1, 4, 8, 40))
    image[..., 20:] = 2
    image += 0.1 * random_case((4, 8, 40), dtype=torch.float32)[1]
    expected = torch.arange(40).expand(4, 8, 40) >= 20
    for displaced in (18, 20, 22):
        edge = torch.arange(40).expand(4, 8, 40) >= displaced
        found = refine(two_labels(edge, 0.7), image, (3.0, 1.0, 1.0), OPTIONS, method=method)
        assert torch.equal(found.argmax(0).bool(), expected), displaced


def test_free_energy_falls_in_sequence_and_damped_updates_end_near_it() -> None:
    probabilities, image = random_case((5, 6))
    unary = unary_logits(probabilities)
    kernels = build_kernels(image, (1.0, 1.5), OPTIONS, method="window")
    weights = (2.0, 1.0)
    unit = torch.eye(30, dtype=torch.float64).reshape(30, 5, 6)
    matrix = sum(w * k(unit).reshape(30, 30) for w, k in zip(weights, kernels, strict=True))
    assert isinstance(matrix, Tensor)
    flat = unary.flatten(1)

    def energy(beliefs: Tensor) -> float:
        entropy = (beliefs * beliefs.clamp_min(1e-300).log()).sum()
        return float(entropy - (beliefs * flat).sum() - 0.5 * (beliefs * (beliefs @ matrix)).sum())

    beliefs = flat.softmax(0)
    energies = [energy(beliefs)]
    for place in [*range(30)] * 30:
        beliefs[:, place] = (flat[:, place] + beliefs @ matrix[:, place]).softmax(0)
        energies.append(energy(beliefs))
    steps = torch.tensor(energies).diff()
    assert float(steps.max()) <= 1e-9
    assert energies[-1] < energies[0] - 0.5
    damped = mean_field(unary, kernels, weights, iterations=200, damping=0.5).flatten(1)
    assert energy(damped) == pytest.approx(energies[-1], rel=0.01)


def test_anisotropic_spacing_is_the_resampled_isotropic_result() -> None:
    """Slices 2 mm apart against slices 1 mm apart: kernels in mm must not see the difference."""
    z = torch.arange(29).double()
    y, x = torch.arange(20).double(), torch.arange(20).double()
    distance = torch.sqrt(
        ((z[:, None, None] - 14) / 1.2) ** 2
        + (y[None, :, None] - 9.5) ** 2
        + (x[None, None] - 9.5) ** 2
    )
    image = torch.sigmoid(7.5 - distance)[None]
    label = torch.sigmoid((6.5 - distance) / 2)
    probabilities = torch.stack([1 - label, label])
    options = DenseCrf(
        theta_space_mm=4.0, theta_intensity=0.3, w_appearance=1.5, w_smooth=0.5, iterations=3
    )
    fine = refine(probabilities, image, (1.0, 1.0, 1.0), options)
    coarse = refine(probabilities[:, ::2], image[:, ::2], (2.0, 1.0, 1.0), options)
    resampled = F.interpolate(
        coarse[None], size=(29, 20, 20), mode="trilinear", align_corners=True
    )[0]
    assert float((fine - probabilities).abs().mean()) > 0.05, "refinement should do something"
    assert float((coarse - fine[:, ::2]).abs().mean()) < 0.02
    assert float((resampled - fine).abs().mean()) < 0.02
    wrong = refine(probabilities[:, ::2], image[:, ::2], (1.0, 1.0, 1.0), options)
    error = float((coarse - fine[:, ::2]).norm())
    assert float((wrong - fine[:, ::2]).norm()) > 2 * error, "spacing should matter"


def test_lattice_and_window_agree() -> None:
    mask = disc(16, 5.5, axes=3)
    _, noise = random_case(mask.shape, seed=3)
    image = mask.double()[None] + 0.2 * noise
    logits = random_case(mask.shape, labels=2, seed=4)[0].log() + 2 * two_labels(mask, 1.0)
    spacing_mm = (6.0, 6.0, 6.0)  # 3 standard deviations of 10 mm are 5 voxels
    found = [
        refine(logits.softmax(0), image, spacing_mm, OPTIONS, method=method).argmax(0).bool()
        for method in METHODS
    ]
    assert dice(found[0], found[1]) > 0.99
    assert dice(found[0], mask) > dice(logits.argmax(0).bool(), mask)


# --- interface -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_half_precision_goes_in_and_comes_out(dtype: torch.dtype, method: Method) -> None:
    probabilities, image = random_case((3, 8, 8), dtype=torch.float32)
    half = probabilities.to(dtype)
    expected = refine(half.float(), image.to(dtype).float(), (3.0, 1.0, 1.0), OPTIONS)
    found = refine(half, image.to(dtype), (3.0, 1.0, 1.0), OPTIONS)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected.to(dtype))
    assert bool(refine(half, image, (3.0, 1.0, 1.0), OPTIONS, method=method).isfinite().all())


def test_nothing_happens_without_foreground() -> None:
    _, image = random_case((4, 5, 6))
    probabilities = two_labels(torch.zeros((4, 5, 6), dtype=torch.bool), 0.7)
    found = refine(probabilities, image, (1.0, 1.0, 1.0), OPTIONS)
    assert torch.equal(found, probabilities)
    found += 1
    assert float(probabilities.max()) == pytest.approx(0.7), "the argument is another tensor"


def test_only_the_box_of_the_foreground_and_20_mm_around_it_changes() -> None:
    mask = torch.zeros((9, 60), dtype=torch.bool)
    mask[4, 30] = True
    probabilities = two_labels(mask, 0.6)
    before = probabilities.clone()
    found = refine(probabilities, torch.zeros((1, 9, 60)), (10.0, 1.0), OPTIONS)
    changed = (found != probabilities).any(0)
    assert changed.any(0).nonzero()[[0, -1], 0].tolist() == [10, 50]
    assert changed.any(1).nonzero()[[0, -1], 0].tolist() == [2, 6]
    assert torch.equal(probabilities, before)


def test_one_slice_is_the_same_in_2d_and_3d() -> None:
    probabilities, image = random_case((9, 8))
    flat = refine(probabilities, image, (1.0, 1.5), OPTIONS)
    deep = refine(probabilities[:, None], image[:, None], (5.0, 1.0, 1.5), OPTIONS)
    torch.testing.assert_close(deep[:, 0], flat)


@given(st.integers(0, 1000), st.integers(2, 4), st.sampled_from([(5, 6), (3, 4, 5)]))
@settings(deadline=None, max_examples=15)
def test_mirrored_and_renamed_input_gives_mirrored_and_renamed_output(
    seed: int, labels: int, shape: tuple[int, ...]
) -> None:
    probabilities, image = random_case(shape, labels, seed)
    probabilities[0] = 0  # foreground everywhere
    probabilities /= probabilities.sum(0)
    spacing_mm = (2.0, 1.0, 1.5)[: len(shape)]
    found = refine(probabilities, image, spacing_mm, OPTIONS)
    torch.testing.assert_close(found.sum(0), torch.ones_like(found[0]))
    assert float(found.min()) >= 0
    for axis in range(1, 1 + len(shape)):
        mirrored = refine(probabilities.flip(axis), image.flip(axis), spacing_mm, OPTIONS)
        torch.testing.assert_close(mirrored.flip(axis), found)
    order = [0, *reversed(range(1, labels))]
    torch.testing.assert_close(
        refine(probabilities[order], image, spacing_mm, OPTIONS), found[order]
    )


def test_gradients_are_right_in_double_precision() -> None:
    """In the image, the logits, both weights and all three standard deviations."""
    shape, spacing_mm = (2, 3, 4), (2.0, 1.0, 1.0)
    probabilities, image = random_case(shape)

    def run(*inputs: Tensor) -> Tensor:
        logits, picture, w_appearance, space, intensity, w_smooth, smooth = inputs
        appearance = window_filter(picture / intensity, space, spacing_mm, radius=2)
        kernels = (
            normalized(appearance, picture),
            normalized(smooth_filter(smooth, spacing_mm), picture),
        )
        return mean_field(logits, kernels, (w_appearance, w_smooth), iterations=2)

    numbers = (0.9, 1.55, 0.8, 0.7, 1.05)
    inputs = [probabilities.log(), image, *(torch.tensor(n, dtype=torch.float64) for n in numbers)]
    for value in inputs:
        value.requires_grad_()
    assert torch.autograd.gradcheck(run, inputs, fast_mode=False)


def test_memory_for_gradients_does_not_follow_the_offsets() -> None:
    values, image = random_case((6, 7, 8))
    saved: dict[int, list[int]] = {}
    for radius in (1, 3):
        sizes: list[int] = []

        def note(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            kernel = window_filter(image.requires_grad_(), 2.0, (1.0, 1.0, 1.0), radius=radius)
            kernel(values.requires_grad_())
        saved[radius] = sizes
    assert saved[1] == saved[3]
    assert 0 < sum(saved[3]) <= values.numel() + image.numel() + 4


def test_wrong_shapes_are_named() -> None:
    probabilities, image = random_case((4, 5, 6))
    with pytest.raises(ValueError, match="image should be"):
        refine(probabilities, image[..., :-1], (1.0, 1.0, 1.0), OPTIONS)
    with pytest.raises(ValueError, match="3 positive sizes"):
        refine(probabilities, image, (1.0, 1.0), OPTIONS)
    with pytest.raises(ValueError, match="probabilities should be"):
        refine(probabilities.long(), image, (1.0, 1.0, 1.0), OPTIONS)


@pytest.mark.parametrize("method", METHODS)
def test_labels_without_background_are_refined_as_with_it(method: Method) -> None:
    probabilities, image = random_case((5, 9, 8))
    expected = refine(probabilities, image, (2.0, 1.0, 1.0), OPTIONS, method=method)
    found = refine_foreground(
        probabilities[1:], image, (2.0, 1.0, 1.0), OPTIONS, exclusive=True, method=method
    )
    torch.testing.assert_close(found, expected[1:])


def test_regions_are_refined_one_by_one_and_may_overlap() -> None:
    inner, outer = disc(16, 4), disc(16, 7)
    regions = torch.stack([two_labels(outer, 0.9)[1], two_labels(inner, 0.9)[1]])
    image = (inner.float() + outer.float())[None]
    found = refine_foreground(regions, image, (1.0, 1.0), OPTIONS, exclusive=False, method="window")
    for region, mask, before in zip(found, (outer, inner), regions, strict=True):
        assert torch.equal(region > 0.5, mask)
        alone = refine(torch.stack([1 - before, before]), image, (1.0, 1.0), OPTIONS)[1]
        torch.testing.assert_close(region, alone)


def test_a_volume_of_one_slice_is_a_picture() -> None:
    probabilities, image = random_case((9, 8))
    flat, deep = (
        refine_foreground(p, i, s, OPTIONS, exclusive=True, method="lattice")
        for p, i, s in (
            (probabilities[1:], image, (1.0, 2.0)),
            (probabilities[1:, None], image[:, None], (5.0, 1.0, 2.0)),
        )
    )
    torch.testing.assert_close(deep[:, 0], flat)


def test_the_fastest_method_that_fits_is_taken() -> None:
    method, needed = fitting_method(1000, 3, 1, 1e9)
    assert method == "lattice"
    assert fitting_method(1000, 3, 1, needed - 1)[0] == "window"
    assert fitting_method(1000, 3, 1, 1000.0) == (None, 1000 * (60 + 150 + 40))


def test_options_and_grids_hold_possible_values_only() -> None:
    for grid in (
        {"w_smooth": (-1.0,)},
        {"iterations": (0,)},
        {"theta_smooth_mm": ()},
        {"draws": 0},
    ):
        with pytest.raises(ValidationError):
            CrfGrid.model_validate({"theta_intensity": (1.0,), **grid})
    for wrong, value in itertools.product(("theta_space_mm", "iterations"), (0, -1)):
        with pytest.raises(ValidationError):
            DenseCrf.model_validate({"theta_intensity": 1.0, wrong: value})
