"""The comparison with nnU-Net: sides in turn, ratios the right way round, equal work."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))  # where `make bench` finds it

from versus import steps_side  # noqa: E402
from versus.__main__ import compare, table  # noqa: E402
from versus.parts import PARTS, Command, Part, Place, Side, UnavailableError  # noqa: E402

REPORT = """
import json, sys
with open({log!r}, "a") as stream:
    stream.write({side!r} + "\\n")
print("reported: " + json.dumps({reported!r}))
"""


def part(tmp_path: Path, unit: str, *, checks: tuple[str, str] = ("", "")) -> Part:
    """Return a part of which selfseg reports 2 and 10 MiB, nnU-Net 6 and 40 MiB."""

    def command(_: Place, side: Side) -> Command:
        figure, extra, check = (2.0, 10.0, checks[0]) if side == "selfseg" else (6, 40, checks[1])
        reported = {"figure": figure, "extra_mib": extra, "check": check}
        log = str(tmp_path / "log")
        code = REPORT.format(log=log, side=side, reported=reported)
        return Command((sys.executable, "-I", "-c", code))

    return Part(
        name="toy", what="toy", unit=unit, bar=1.0, rounds=2, prepare=lambda _: None,
        command=command,
    )  # fmt: skip


def test_sides_alternate_and_ratios_say_how_much_better_selfseg_is(tmp_path: Path) -> None:
    place = Place(tmp_path / "work", None)
    found = compare(part(tmp_path, "s"), place)
    assert (found.ratio, found.memory_ratio) == (3.0, 4.0)
    assert (tmp_path / "log").read_text().split() == ["selfseg", "nnunet", "nnunet", "selfseg"]
    more = compare(part(tmp_path, "steps/s"), place)
    assert more.ratio == pytest.approx(1 / 3)
    assert compare(part(tmp_path, "s/case"), place).ratio == 3.0
    assert "**3.0 ×**" in table([found])


def test_sides_that_did_not_do_the_same_or_failed_give_no_ratio(tmp_path: Path) -> None:
    place = Place(tmp_path / "work", None)
    with pytest.raises(RuntimeError, match="did not do the same"):
        compare(part(tmp_path, "s", checks=("10 weights", "12 weights")), place)
    broken = Part(
        name="toy", what="toy", unit="s", bar=1.0, rounds=1, prepare=lambda _: None,
        command=lambda *_: Command((sys.executable, "-I", "-c", "raise SystemExit('no disk')")),
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="no disk"):
        compare(broken, place)


@pytest.mark.parametrize(("name", "data"), [("plan", "hippocampus"), ("predict", "nnunet_model")])
def test_parts_without_their_data_are_told(tmp_path: Path, name: str, data: str) -> None:
    (found,) = (item for item in PARTS if item.name == name)
    with pytest.raises(UnavailableError, match=data):
        found.prepare(Place(tmp_path, tmp_path))


def test_a_step_of_ours_trains_the_network_of_the_setting() -> None:
    setting = steps_side.Setting(patch=(8, 8, 8), batch=2, features=(2, 4))
    step, weights = steps_side.selfseg_step(setting)
    assert weights > 0
    assert float(step()) != float(step())  # type: ignore[arg-type]
