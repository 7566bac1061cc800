"""Numbers of things in messages: one is one, and nothing else is."""

from __future__ import annotations

import pytest

from selfseg.words import counted, named


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [(1, "case", "1 case"), (0, "case", "0 cases"), (2, "case", "2 cases"),
     (1, "class", "1 class"), (3, "class", "3 classes")],
)  # fmt: skip
def test_one_is_singular_and_all_else_plural(number: int, noun: str, text: str) -> None:
    assert counted(number, noun) == text


def test_names_after_their_kind() -> None:
    assert named("fold", ["0"]) == "fold 0"
    assert named("fold", ["0", "all"]) == "folds 0, all"
