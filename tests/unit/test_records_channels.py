"""Which channels stand for each other: names decide; as many of other names stand in order."""

from __future__ import annotations

import pytest

from selfseg.records.channels import are_alike, are_in_order, channel_order, match_channels


@pytest.mark.parametrize(
    ("source", "target", "matches", "order"),
    [
        ("T1 T2", "t2 T1", (1, 0), (1, 0)),
        ("T1 T2 PET", "PET T1 T2", (2, 0, 1), (2, 0, 1)),
        ("MRI", "T1", (0,), (0,)),
        ("A B", "C D", (0, 1), (0, 1)),
        ("T1 T2", "T2 FLAIR", (1, None), None),
        ("T1 T2", "T1", (0,), None),
        ("T1", "T1 T2", (0, None), None),
        ("A", "B C", (None, None), None),
        ("CT CT", "CT ct", (0, 1), (0, 1)),
        ("A A B", "A B A", (0, 2, 0), None),
    ],
)
def test_names_decide(
    source: str, target: str, matches: tuple[int | None, ...], order: tuple[int, ...] | None
) -> None:
    assert match_channels(source.split(), target.split()) == matches
    assert channel_order(source.split(), target.split()) == order


def test_order_does_not_make_channels_unlike() -> None:
    assert are_alike(["T1", "T2"], ["t2", "t1"])
    assert not are_alike(["T1", "T2"], ["T1"])
    assert not are_alike(["MRI"], ["T1"])


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (("a", "b"), ("c", "d"), True),
        (("a", "b"), ("c", "A"), False),
        (("a", "b"), ("c",), False),
        (("a",), ("A",), False),
    ],
)
def test_order_decides_where_no_name_agrees(
    source: tuple[str, ...], target: tuple[str, ...], expected: bool
) -> None:
    assert are_in_order(source, target) is expected
    if expected:
        assert match_channels(source, target) == tuple(range(len(target)))
