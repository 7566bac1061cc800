"""The `selfseg` command itself."""

from __future__ import annotations

from importlib import metadata

from typer.testing import CliRunner

from selfseg.cli.main import app


def test_the_version_is_that_of_the_package() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout == f"selfseg {metadata.version('selfseg')}\n"
