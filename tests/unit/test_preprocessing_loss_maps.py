"""Maps of the reference: distances, tubes, components, segments."""

from __future__ import annotations

import numpy as np
import pytest
from targets import nested, plain

from selfseg.losses.maps import DISTANCE_PARTS
from selfseg.preprocessing.loss_maps import (
    make_map,
    segment_map,
    signed_distance,
    tube_map,
)
from selfseg.records.loss_maps import (
    NO_SURFACE,
    ComponentsMap,
    DistanceMap,
    SegmentsMap,
    TubeMap,
)


def bar(shape: tuple[int, ...], width: int, length: int) -> np.ndarray:
    """Return a straight bar along the last axis, in the middle."""
    mask = np.zeros(shape, np.bool_)
    low = [(size - width) // 2 for size in shape[:-1]]
    box = tuple(slice(start, start + width) for start in low)
    first = (shape[-1] - length) // 2
    mask[(*box, slice(first, first + length))] = True
    return mask


def test_signed_distance_is_in_the_finest_voxels_and_zero_at_the_rim() -> None:
    mask = bar((9, 21, 21), 5, 11)
    distance = signed_distance(mask, (2.0, 0.5, 0.5))
    assert distance[4, 10, 10] == -2  # three voxels to the background in plane, less one
    assert distance[4, 8, 10] == 0
    assert distance[4, 7, 10] == 1
    assert distance[1, 10, 10] == 4  # one slice is four fine voxels away


def test_without_a_surface_a_label_is_infinitely_far_or_deep() -> None:
    """A slice without the label, one with it, one of nothing else."""
    label = np.zeros((3, 8, 9), np.int16)
    label[1, 2:5, 2:6] = label[2] = 1
    assert np.isposinf(signed_distance(label[0] > 0, (1.0, 1.0))).all()
    assert np.isneginf(signed_distance(label[2] > 0, (1.0, 1.0))).all()
    flat = make_map(label, DistanceMap(), plain(1), (3.0, 1.0, 1.0), flat=True)[0]
    assert (flat[0] == NO_SURFACE).all()
    assert (flat[2] == -NO_SURFACE).all()
    assert (np.abs(flat[1]) < NO_SURFACE).all()
    whole = make_map(label, DistanceMap(), plain(1), (3.0, 1.0, 1.0), flat=False)[0]
    assert (np.abs(whole) < NO_SURFACE).all()
    far = np.zeros((1, 3, 800), np.int16)
    far[..., 0] = 1  # farther than int16 holds is still a distance
    stored = make_map(far, DistanceMap(), plain(1), (1.0, 1.0, 1.0), flat=False)
    assert stored.max() == NO_SURFACE - 1


@pytest.mark.parametrize("shape", [(30, 40), (30, 30, 40)])
def test_a_tube_is_the_center_line_two_voxels_wide(shape: tuple[int, ...]) -> None:
    tube = tube_map(bar(shape, 7, 30), TubeMap())
    middle = tube[..., 20]
    assert middle.sum() == (5 if len(shape) == 2 else 13)  # a ball of radius 2 in face steps
    assert middle[tuple(size // 2 for size in shape[:-1])]


@pytest.mark.parametrize(
    ("width", "length", "pieces"), [(1, 32, 4), (1, 15, 1), (1, 6, 1), (5, 60, 4)]
)
@pytest.mark.parametrize("axes", [2, 3])
def test_a_bar_is_cut_into_equal_pieces(width: int, length: int, pieces: int, axes: int) -> None:
    mask = bar((20,) * (axes - 1) + (70,), width, length)
    segments = segment_map(mask, SegmentsMap())
    numbers = np.unique(np.abs(segments[segments != 0]))
    assert len(numbers) == pieces
    sizes = [int((segments == -number).sum()) for number in numbers]
    assert max(sizes) - min(sizes) <= 1
    assert (segments[mask] != 0).all()
    reach = np.flatnonzero(segments.any(axis=tuple(range(axes - 1))))
    assert reach.max() - reach.min() < length + 2 * (width + 2)
    assert not segments[(0,) * (axes - 1)].any()


def test_junctions_part_segments_and_crumbs_are_dropped() -> None:
    mask = np.zeros((40, 40), np.bool_)
    mask[20, 5:35] = mask[5:35, 20] = True
    mask[2, 2:4] = True  # two voxels
    segments = segment_map(mask, SegmentsMap())
    arms = [segments[20, 8], segments[20, 32], segments[8, 20], segments[32, 20]]
    assert all(arm < 0 for arm in arms)
    assert len(set(arms)) == 4
    assert segments[20, 20] >= 0
    assert segments[2, 2] == 0


def test_a_ring_is_walked_around() -> None:
    y, x = np.mgrid[:41, :41]
    radius = np.hypot(y - 20, x - 20)
    segments = segment_map((radius > 13) & (radius < 16), SegmentsMap())
    numbers = np.unique(segments[segments < 0])
    sizes = [int((segments == number).sum()) for number in numbers]
    assert 8 <= len(numbers) <= 12
    assert min(sizes) >= 6
    for number in numbers:  # every piece hangs together
        places = np.argwhere(segments == number)
        assert np.ptp(places, axis=0).max() <= max(sizes)


def test_maps_of_labels_regions_and_slices() -> None:
    label = np.zeros((4, 20, 30), np.int16)
    label[:, 5:8, 3:27] = 1
    label[2:, 12:15, 3:27] = 2
    label[:, 18:] = -1
    made = make_map(label, ComponentsMap(), plain(2), (3.0, 1.0, 1.0), flat=False)
    assert made.shape == (2, 4, 20, 30)
    assert made.dtype == np.int16
    assert [int(part.max()) for part in made] == [1, 1]
    flat = make_map(label, ComponentsMap(), plain(2), (3.0, 1.0, 1.0), flat=True)
    assert [int(part.max()) for part in flat] == [4, 2]  # every slice has its own
    regions = make_map(label, DistanceMap(), nested(), (3.0, 1.0, 1.0), flat=True)
    assert regions.shape[0] == 3
    assert regions[0, 0, 6, 15] == -DISTANCE_PARTS  # the middle row of three
    assert np.array_equal(regions[0] <= 0, label > 0)


def test_maps_are_made_as_the_options_say() -> None:
    mask = bar((20, 70), 1, 32)
    assert len(np.unique(segment_map(mask, SegmentsMap(length=16)))) == 1 + 2 * 2
    assert not segment_map(mask, SegmentsMap(shortest=33)).any()
    wide = segment_map(mask, SegmentsMap(range_margin=5.0)) != 0
    assert wide[:, 30].sum() == 13  # radius 1 and five voxels on either side, and the line
    thick = bar((30, 90), 7, 70)
    assert len(np.unique(segment_map(thick, SegmentsMap(length_radii=0.0)))) > len(
        np.unique(segment_map(thick, SegmentsMap()))
    )
    assert tube_map(mask, TubeMap(widening=1))[:, 30].sum() == 3
    assert tube_map(mask, TubeMap(widening=0)).sum() == 32


def test_maps_of_labels_that_no_term_names_are_empty() -> None:
    label = np.zeros((3, 20, 30), np.int16)
    label[:, 5:8, 3:27], label[:, 12:15, 3:27] = 1, 2
    for options in (ComponentsMap, DistanceMap, SegmentsMap, TubeMap):
        some = options(labels=("label 2",))
        made = make_map(label, some, plain(2), (3.0, 1.0, 1.0), flat=False)
        assert not made[0].any()
        every = make_map(label, options(), plain(2), (3.0, 1.0, 1.0), flat=False)
        assert np.array_equal(made[1], every[1])
        assert every[0].any()
