"""Steps on label maps: of labels, of regions, in their order, and where there is nothing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from targets import nested, plain

from selfseg.postprocessing.apply import apply_steps
from selfseg.records.postprocessing import FillHoles, LargestComponent, MinimumVolume, Step
from selfseg.records.serial import Triple

CUBIC: Triple = (1.0, 1.0, 1.0)
Map = npt.NDArray[np.uint8]


def label_map(*rows: str) -> Map:
    """Return a picture (1, Y, X) of digits; `.` is background."""
    return np.array([[int(digit) for digit in row.replace(".", "0")] for row in rows], np.uint8)[
        None
    ]


def cleaned(before: Map, *steps: Step, regions: bool = False) -> list[Map]:
    """Apply steps to a map and to its mirror image, which is turned back; the given map stays."""
    targets = nested() if regions else plain(3)
    kept = before.copy()
    flips = (slice(None), slice(None, None, -1))
    made = [apply_steps(before[:, f, f], steps, targets, CUBIC)[:, f, f] for f in flips]
    assert np.array_equal(before, kept)
    assert all(each.dtype == before.dtype for each in made)
    return made


def same(made: list[Map], expected: Map) -> bool:
    """Tell whether a map and its mirror image both became what they should."""
    return all(np.array_equal(each, expected) for each in made)


def test_the_largest_component_of_one_label() -> None:
    assert same(
        cleaned(label_map("1.11.22", ".......", "2...33."), LargestComponent(name="label 1")),
        label_map("..11.22", ".......", "2...33."),
    )


def test_the_largest_component_of_all_foreground() -> None:
    assert same(
        cleaned(label_map("12...11", "..2....", "......3"), LargestComponent()),
        label_map("12.....", "..2....", "......."),
    )


def test_labels_that_touch_are_no_component_of_one_label() -> None:
    assert same(
        cleaned(label_map("1212.11"), LargestComponent(name="label 1")), label_map(".2.2.11")
    )


def test_corners_join_voxels_of_a_label() -> None:
    assert same(
        cleaned(label_map("1....1", ".1...1", "..1..."), LargestComponent(name="label 1")),
        label_map("1.....", ".1....", "..1..."),
    )


@pytest.mark.parametrize(("voxels", "kept"), [(1, "1.22.111"), (2, "..22.111"), (3, "..22.111")])
def test_components_below_a_volume_go(voxels: int, kept: str) -> None:
    assert same(
        cleaned(label_map("1.22.111"), MinimumVolume(name="label 1", volume_ml=voxels / 1000)),
        label_map(kept),
    )


def test_the_volume_follows_the_spacing() -> None:
    before = label_map("1.11")
    spacing = (4.0, 0.5, 0.25)  # 0.5 mm³
    for voxels, after in ((1, "1.11"), (2, "..11"), (3, "....")):
        step = MinimumVolume(name="label 1", volume_ml=voxels * 0.5 / 1000)
        made = apply_steps(before, [step], plain(3), spacing)
        assert np.array_equal(made, label_map(after))


def test_holes_of_a_picture_are_filled_with_the_label() -> None:
    assert same(
        cleaned(
            label_map(".333..", ".3.3..", ".333..", "....22", ".....2"), FillHoles(name="label 3")
        ),
        label_map(".333..", ".333..", ".333..", "....22", ".....2"),
    )


def test_other_labels_in_a_hole_stay() -> None:
    assert same(
        cleaned(label_map("11111", "1.2.1", "1...1", "11111"), FillHoles(name="label 1")),
        label_map("11111", "11211", "11111", "11111"),
    )


def test_what_is_open_is_no_hole() -> None:
    before = label_map("111", "1.1", "1.1")
    assert same(cleaned(before, FillHoles(name="label 1")), before)
    ring = label_map("22222", "2...2", "2...2", "22.22")
    assert same(cleaned(ring, FillHoles(name="label 2")), ring)


def test_holes_of_a_volume_are_closed_on_all_sides() -> None:
    before = np.zeros((5, 5, 5), np.uint8)
    before[1:4, 1:4, 1:4] = 2
    before[2, 2, 2] = 0
    after = before.copy()
    after[2, 2, 2] = 2
    assert same(cleaned(before, FillHoles(name="label 2")), after)
    before[1, 2, 2] = 0
    assert same(cleaned(before, FillHoles(name="label 2")), before)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_ring_in_one_plane_of_a_volume_has_no_hole(axis: int, place: int) -> None:
    before = np.zeros((3, 6, 6), np.uint8).swapaxes(0, axis)
    plane = before.swapaxes(0, axis)[place]
    plane[1:5, 1:5] = 1
    plane[2:4, 2:4] = 0
    assert same(cleaned(before, FillHoles(name="label 1")), before)


def test_steps_of_several_labels_do_not_mix() -> None:
    assert same(
        cleaned(
            label_map("1.11.2.22", ".........", "333....33", "3.3......", "333......"),
            LargestComponent(name="label 1"),
            FillHoles(name="label 3"),
            MinimumVolume(name="label 2", volume_ml=0.001),
        ),
        label_map("..11.2.22", ".........", "333....33", "333......", "333......"),
    )


def test_steps_work_on_what_earlier_steps_leave() -> None:
    # A ring around an island, and two voxels beside it.
    before = label_map("11111...", "1...1...", "1.1.1..1", "1...1..1", "11111...")
    full = label_map("11111...", "11111...", "11111...", "11111...", "11111...")
    hollow = label_map("11111...", "1...1...", "1...1...", "1...1...", "11111...")
    largest, fill = LargestComponent(name="label 1"), FillHoles(name="label 1")
    assert same(cleaned(before, fill, largest), full)
    assert same(cleaned(before, largest, fill), full)
    assert same(cleaned(before, largest), hollow)
    # A ring that has lost to a bar has no hole any more; one that is filled first wins.
    rivals = label_map("111......", "1.1......", "111......", ".........", "111111111")
    assert same(cleaned(rivals, largest, fill), label_map(*["." * 9] * 4, "1" * 9))
    blocks = label_map("111..", "111..", "111..", ".....", ".....")
    blocks = np.pad(blocks, ((0, 0), (0, 0), (0, 4)))
    tie = rivals.copy()
    tie[0, 4, 8] = 0  # eight voxels each; filled, the ring has nine
    assert same(cleaned(tie, fill, largest), blocks)


def test_a_region_is_cleaned_as_one() -> None:
    # The core is labels 2 and 3: label 1 lies between its parts, and stays.
    assert same(
        cleaned(label_map("12313", ".....", "1...2"), LargestComponent(name="core"), regions=True),
        label_map("1231.", ".....", "1...."),
    )
    assert same(
        cleaned(
            label_map("12.13", ".....", "1...2"),
            MinimumVolume(name="whole", volume_ml=0.002),
            regions=True,
        ),
        label_map("12.13", ".....", "....."),
    )


def test_holes_of_a_region_get_its_own_value() -> None:
    # The ring of the core is closed by labels 2 and 3 together.
    assert same(
        cleaned(
            label_map("11111", "12321", "13.21", "12231", "11111"),
            FillHoles(name="core"),
            regions=True,
        ),
        label_map("11111", "12321", "13221", "12231", "11111"),
    )
    assert same(
        cleaned(label_map("33333", "3.1.3", "33333"), FillHoles(name="center"), regions=True),
        label_map("33333", "33133", "33333"),
    )
    before = label_map("222", "1.3", "222")
    assert same(
        cleaned(before, FillHoles(name="whole"), regions=True), label_map("222", "113", "222")
    )


def test_a_region_of_a_label_with_another_index_is_found() -> None:
    targets = nested()
    order = tuple(reversed(targets.labels))  # label values 3, 2, 1 have the indices 1, 2, 3
    turned = targets.model_copy(update={"labels": order})
    before = label_map("111", "1.1", "111")  # center: value 3, index 1
    made = apply_steps(before, [FillHoles(name="center")], turned, CUBIC)
    assert np.array_equal(made, label_map("111", "111", "111"))


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("shape", [(1, 4, 5), (3, 4, 5)])
def test_nothing_comes_of_nothing(shape: tuple[int, ...], regions: bool) -> None:
    name = "core" if regions else "label 2"
    steps = (
        LargestComponent(),
        LargestComponent(name=name),
        MinimumVolume(name=name, volume_ml=1.0),
        FillHoles(name=name),
    )
    assert same(
        cleaned(np.zeros(shape, np.uint8), *steps, regions=regions), np.zeros(shape, np.uint8)
    )
    other = np.zeros(shape, np.uint8)
    other[0, 0, 0] = other[0, 3, 3] = 1  # no voxel of the label or region that is cleaned
    assert same(cleaned(other, *steps[1:], regions=regions), other)


def test_no_step_changes_nothing() -> None:
    before = label_map("1.2.3")
    made = apply_steps(before, [], plain(3), CUBIC)
    assert np.array_equal(made, before)
    assert made is not before


def test_a_map_of_many_labels_keeps_its_type() -> None:
    before = np.array([[[300, 0, 300, 300]]], np.uint16)
    made = apply_steps(before, [LargestComponent(name="label 300")], plain(300), CUBIC)
    assert made.dtype == np.uint16
    assert made.ravel().tolist() == [0, 0, 300, 300]
