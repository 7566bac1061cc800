"""Working axes: whichever way an image is stored, the plan's orientation holds; and back again."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tinymodel
from hypothesis import given
from hypothesis import strategies as st

from selfseg.errors import PlanError
from selfseg.io.geometry import canonical_geometry, to_canonical
from selfseg.io.images import Image
from selfseg.plan_checks import check_plan
from selfseg.preprocessing.axes import (
    canonical_place,
    canonical_shape,
    from_working,
    to_working,
    working_axes,
)
from selfseg.preprocessing.case import prepare_case
from selfseg.preprocessing.foreground import foreground_tiles
from selfseg.preprocessing.invert import label_map_from_logits
from selfseg.records import serial
from selfseg.records.dataset import Label, Targets
from selfseg.records.geometry import Geometry, Orientation
from selfseg.records.plan import Inference
from selfseg.records.preprocessing import NoNormalization, Preprocessing, ZScore
from selfseg.records.shape_model import ShapeOptions

ORDERS = st.permutations([0, 1, 2]).map(lambda order: (order[0], order[1], order[2]))
FLIPS = st.tuples(st.booleans(), st.booleans(), st.booleans())
SHAPE = (3, 4, 5)


def options(axes: tuple[int, int, int], orientation: str) -> Preprocessing:
    return Preprocessing.model_validate(
        {
            "axes": axes,
            "spacing_mm": (1.0, 1.0, 1.0),
            "normalization": (NoNormalization(),),
            "orientation": orientation,
        }
    )


def image_of(stored: np.ndarray, orientation: Orientation) -> Image:
    z, y, x = stored.shape
    native = Geometry(shape=(z, y, x), spacing_mm=(1.0, 1.0, 1.0))
    canonical = to_canonical(stored[None], orientation)
    return Image(canonical, canonical_geometry(native, orientation), native, orientation)


@given(permutation=ORDERS, stored_flips=FLIPS, axes=ORDERS)
def test_stored_axes_are_those_of_the_file(
    permutation: tuple[int, int, int],
    stored_flips: tuple[bool, bool, bool],
    axes: tuple[int, int, int],
) -> None:
    orientation = Orientation(permutation=permutation, flips=stored_flips)
    stored = np.arange(60).reshape(SHAPE)
    order, flips = working_axes(orientation, options(axes, "stored"))
    working = to_working(to_canonical(stored, orientation), order, flips)
    np.testing.assert_array_equal(working, stored.transpose(axes))


def test_ras_is_canonical_with_two_axes_turned() -> None:
    canonical = np.arange(60).reshape(SHAPE)
    orientation = Orientation(permutation=(2, 0, 1), flips=(True, False, True))
    order, flips = working_axes(orientation, options((1, 0, 2), "ras"))
    expected = canonical[:, ::-1, ::-1].transpose(1, 0, 2)
    np.testing.assert_array_equal(to_working(canonical, order, flips), expected)


@given(axes=ORDERS, flips=FLIPS)
def test_the_way_back_undoes_the_way_there(
    axes: tuple[int, int, int], flips: tuple[bool, bool, bool]
) -> None:
    canonical = np.arange(120).reshape(2, *SHAPE)
    working = to_working(canonical, axes, flips)
    np.testing.assert_array_equal(from_working(working, axes, flips), canonical)


@pytest.mark.parametrize("orientation", ["canonical", "stored", "ras"])
def test_predictions_come_back_to_where_they_were(orientation: str) -> None:
    generator = np.random.default_rng(0)
    stored = generator.normal(size=(7, 8, 9)).astype(np.float32)
    stored[:2] = stored[:, -1] = 0  # the crop is not in the middle
    truth = ((stored > 0.5) + 1) * (stored > 0)
    targets = Targets(labels=(Label(name="a", value=1), Label(name="b", value=2)))
    turned = Orientation(permutation=(1, 2, 0), flips=(True, False, True))
    image = image_of(stored, turned)
    prepared = prepare_case("case", image, None, options((2, 0, 1), orientation))
    record = prepared.record
    assert canonical_shape(record) == image.geometry.shape
    found = prepared.image[0]
    logits = 40 * np.stack([found <= 0, (found > 0) & (found <= 0.5), found > 0.5]).astype(float)
    back = options((2, 0, 1), orientation).resampling
    labels = label_map_from_logits(logits, record, back, targets=targets, max_gib=1.0)
    expected = to_canonical(truth, turned)
    np.testing.assert_array_equal(labels, expected)
    import torch

    total = np.zeros((2, *expected.shape), np.float32)
    for place, part in foreground_tiles(
        torch.from_numpy(logits), record, back, targets=targets, max_gib=1e-7
    ):
        total[(slice(None), *place)] += part
    np.testing.assert_array_equal(total > 0.5, [expected == 1, expected == 2])


def test_boxes_are_turned_with_the_array() -> None:
    stored = np.ones((7, 8, 9), np.float32)
    turned = Orientation(permutation=(1, 2, 0), flips=(True, False, True))
    record = prepare_case(
        "case", image_of(stored, turned), None, options((2, 0, 1), "stored")
    ).record
    canonical = np.arange(7 * 8 * 9).reshape(canonical_shape(record))
    box = (slice(1, 3), slice(0, 2), slice(4, 7))
    cut = to_working(canonical, record.axes, record.flips)[box]
    turned_back = from_working(cut, record.axes, record.flips)
    np.testing.assert_array_equal(canonical[canonical_place(box, record)], turned_back)


def test_shape_models_need_canonical_axes() -> None:
    item = tinymodel.tiny_configuration()
    shaped = tinymodel.tiny_plan(item).model_copy(update={"shapes": ShapeOptions(labels=("core",))})
    check_plan(shaped)
    turned = item.preprocessing.model_copy(update={"orientation": "stored"})
    item = item.model_copy(update={"preprocessing": turned})
    with pytest.raises(PlanError, match="must be canonical for shape models"):
        check_plan(shaped.model_copy(update={"configurations": (item,)}))
    check_plan(tinymodel.tiny_plan(item))


def test_digests_are_those_from_before_the_options_were_there() -> None:
    plain = Preprocessing(axes=(0, 1, 2), spacing_mm=(None, 1.0, 1.0), normalization=(ZScore(),))
    assert serial.digest(plain) == "0f9ec672337d1f0b"
    assert serial.digest(Inference(mirror_axes=(0, 1))) == "44877a5a5b1a668e"
    changed = plain.model_copy(update={"orientation": "ras"})
    assert serial.digest(changed) != serial.digest(plain)
    assert '"orientation":"canonical"' in plain.model_dump_json()
    combinations = itertools.product(("exact", "float16"), ("fast", "fine"))
    digests = {serial.digest(Inference(window_weight=w, precision=p)) for w, p in combinations}  # type: ignore[arg-type]
    assert len(digests) == 4
