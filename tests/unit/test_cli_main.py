"""The `selfseg` command itself."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from selfseg.cli.main import app
from selfseg.progress import duration_text
from selfseg.workspace.lookup import model_folder


def test_the_version_is_that_of_the_package() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout == f"selfseg {metadata.version('selfseg')}\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0 s"), (119, "119 s"), (700, "12 min"), (118_987, "33 h 3 min"), (7199, "2 h 0 min")],
)
def test_waits_are_told_as_one_reads_them(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_predict_takes_a_planned_name_for_a_model(tmp_path: Path) -> None:
    (tmp_path / "liver").mkdir()
    (tmp_path / "liver" / "plan.json").write_text("{}")
    assert model_folder(tmp_path, Path("liver")) == tmp_path / "liver"
    assert model_folder(tmp_path, Path("elsewhere")) == Path("elsewhere")
    assert model_folder(tmp_path / "other", tmp_path / "liver") == tmp_path / "liver"
