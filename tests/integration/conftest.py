"""What several integration tests share: generated lesions, and a classifier of few trees."""

from __future__ import annotations

from pathlib import Path

import pytest
from lesioncases import SmallPlanner, write_lesions

from selfseg import planning


@pytest.fixture
def small_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the planner decide for few folds and trees."""
    monkeypatch.setattr(planning, "find_classifier", lambda _: SmallPlanner())


@pytest.fixture(scope="module")
def lesions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lesions(tmp_path_factory.mktemp("lesions"))
