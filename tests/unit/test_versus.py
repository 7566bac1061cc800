"""The comparison with nnU-Net: sides in turn, ratios the right way round, equal work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import blosc2
import numpy as np
import pytest
from tinymodel import tiny_configuration, tiny_plan
from trainingdata import make_folder

from selfseg.networks import precision
from selfseg.records import serial
from selfseg.workspace.dataset import DatasetFolder

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))  # where `make bench` finds it

from versus import __main__ as versus  # noqa: E402
from versus import circumstances, loader_side, steps_side  # noqa: E402
from versus.__main__ import compare  # noqa: E402
from versus.measure import MIB, SHARES, held_bytes, measure  # noqa: E402
from versus.parts import PARTS, Command, Part, Place, Side, UnavailableError  # noqa: E402
from versus.prepared import nnunet_prepared, selfseg_prepared  # noqa: E402
from versus.results import table  # noqa: E402

REPORT = """
import json, sys
with open({log!r}, "a") as stream:
    stream.write({side!r} + "\\n")
print("reported: " + json.dumps({reported!r}))
"""


def part(tmp_path: Path, unit: str, *, checks: tuple[str, str] = ("same", "same")) -> Part:
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
    with pytest.raises(RuntimeError, match="did not do the same"):
        compare(part(tmp_path, "s", checks=("", "")), place)  # nothing tells what they did
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


def test_what_a_part_checks_itself_goes_before_what_commands_report(tmp_path: Path) -> None:
    seen: list[Side] = []

    def check(_: Place, side: Side) -> str:
        seen.append(side)
        return "6 cases" if side == "selfseg" else "5 cases"

    place = Place(tmp_path / "work", None)
    with pytest.raises(RuntimeError, match=r"5 cases.*6 cases"):
        compare(replace(part(tmp_path, "s"), check=check), place)
    assert seen == ["selfseg", "nnunet", "nnunet", "selfseg"]


def test_every_part_alternates_its_sides_and_can_tell_what_they_did() -> None:
    assert all(part.rounds >= 2 for part in PARTS)
    assert {part.name for part in PARTS if part.check is not None} == {"plan", "plan-ct"}


def test_a_part_that_fails_costs_no_other_and_former_results_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: Place) -> None:
        raise ZeroDivisionError("by chance")

    good = part(tmp_path, "s")
    parts = [replace(good, name="first"), replace(good, name="bad", prepare=fail), good]
    monkeypatch.setattr(versus, "PARTS", parts)
    monkeypatch.setattr(circumstances, "PACKAGES", ("selfseg", "numpy"))
    monkeypatch.setattr(precision, "cpu_has_native_bfloat16", lambda: True)
    monkeypatch.setattr(precision, "cpu_has_native_float16", lambda: False)
    monkeypatch.setattr(sys, "argv", ["versus", "all of it"])
    out = tmp_path / "found" / "results.json"
    options = ["--folder", str(tmp_path / "work"), "--out", str(out)]
    assert versus.main(options) == 1
    assert "failed: ZeroDivisionError: by chance" in capsys.readouterr().out
    found = json.loads(out.read_text())["results"]
    assert [item["part"] for item in found] == ["first", "toy"]
    on = found[0]["on"]
    assert on["command"] == "python -m versus 'all of it'"
    assert len(on["load"]) == 3
    assert on["cpu"] or on["instructions"] == []
    assert (on["bfloat16"], on["float16"]) == (True, False)
    assert on["versions"]["numpy"] == np.__version__
    monkeypatch.setattr(versus, "PARTS", [replace(good, what="again")])
    assert versus.main(options) == 0
    later = json.loads(out.read_text())["results"]
    assert [(item["part"], item["what"]) for item in later] == [("first", "toy"), ("toy", "again")]


def test_results_are_on_disk_before_the_next_part_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: Place) -> None:
        raise KeyboardInterrupt

    good = part(tmp_path, "s")
    monkeypatch.setattr(versus, "PARTS", [good, replace(good, name="last", prepare=stop)])
    monkeypatch.setattr(circumstances, "PACKAGES", ("selfseg",))
    out = tmp_path / "results.json"
    with pytest.raises(KeyboardInterrupt):
        versus.main(["--folder", str(tmp_path / "work"), "--out", str(out)])
    assert [item["part"] for item in json.loads(out.read_text())["results"]] == ["toy"]


SHARING = """
import os, time
block = bytearray(b"x") * (200 * 2**20)
child = os.fork()
time.sleep(1.5)
if child:
    os.wait()
"""


@pytest.mark.skipif(not Path(f"/proc/self/{SHARES}").is_file(), reason="the system does not tell")
def test_memory_that_processes_share_counts_once() -> None:
    found = measure([sys.executable, "-I", "-c", SHARING], {})
    assert 200 <= found.peak_mib < 300


STARTED_BY_A_LARGE_ONE = """
import subprocess, sys
block = bytearray(b"x") * (600 * 2**20)
child = "from peakmemory import peak_mib; print(peak_mib())"
subprocess.run([sys.executable, "-c", child], check=True)
"""


def test_the_peak_of_a_process_is_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STARTED_BY_A_LARGE_ONE], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert 5 < float(done.stdout) < 300


def test_where_shares_are_not_told_resident_memory_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError

    monkeypatch.setattr(Path, "read_text", refuse)
    assert held_bytes(1, 5 * MIB) == 5 * MIB


def prepared_twice(tmp_path: Path) -> tuple[Path, Path]:
    """Return a planned data set of two cases, and nnU-Net's folder with the same arrays."""
    configuration = tiny_configuration()
    plan, ours = tiny_plan(configuration), DatasetFolder(tmp_path / "ours")
    serial.save(plan, ours.plan)
    arrays = ours.preprocessed(configuration.preprocessing)
    theirs = tmp_path / "theirs"
    (theirs / "arrays").mkdir(parents=True)
    for case in make_folder(arrays, cases=2, shape=(6, 8, 10)):
        image, label = (blosc2.open(str(arrays / f"{case}{end}.b2nd"))[:] for end in ("", "_label"))
        outside = np.where(label == 0, -1, label)[None].astype(np.int8)  # as theirs are
        for array, end in ((image, ""), (outside, "_seg")):
            blosc2.asarray(array, urlpath=str(theirs / "arrays" / f"{case}{end}.b2nd"), mode="w")
    described = {"3d_fullres": {"data_identifier": "arrays"}, "3d_cascade_fullres": {}}
    (theirs / "nnUNetPlans.json").write_text(json.dumps({"configurations": described}))
    return ours.path, theirs


def test_equal_arrays_of_both_sides_are_described_alike(tmp_path: Path) -> None:
    ours, theirs = prepared_twice(tmp_path)
    found = selfseg_prepared(ours)
    assert found == nnunet_prepared(theirs)
    assert found.startswith("3d_fullres: 2 cases, 0.0 M voxels, labels [")


@pytest.mark.parametrize("harm", ["case gone", "label gone", "image cut"])
def test_less_work_is_noticed(tmp_path: Path, harm: str) -> None:
    ours, theirs = prepared_twice(tmp_path)
    seg, image = theirs / "arrays" / "case_0_seg.b2nd", theirs / "arrays" / "case_0.b2nd"
    if harm == "case gone":
        seg.unlink()
    elif harm == "label gone":
        blosc2.asarray(np.zeros((1, 6, 8, 10), np.int8), urlpath=str(seg), mode="w")
    else:
        blosc2.asarray(np.zeros((1, 5, 8, 10), np.float32), urlpath=str(image), mode="w")
        with pytest.raises(RuntimeError, match="but its image"):
            nnunet_prepared(theirs)
        return
    assert nnunet_prepared(theirs) != selfseg_prepared(ours)


def test_a_loader_that_deforms_nothing_or_loses_a_label_is_noticed() -> None:
    whole: set[tuple[int, ...]] = {(50, 4), (61, 7)}
    sizes = {"(2, 1, 8, 8, 8) (2, 8, 8, 8)"}
    as_planned = loader_side.summary(sizes, [(50, 4), (48, 4), (61, 7)], whole)
    assert as_planned == loader_side.summary(sizes, [(61, 6), (39, 4), (61, 7)], whole)
    assert "2 labels, some deformed" in as_planned
    for found in ([(50, 4)] * 3, [(50, 5)] * 3, [(50,), (48,), (61,)], [(50, 4), (48, 4)]):
        assert loader_side.summary(sizes, found, whole) != as_planned
    label = np.array([[0, 1], [2, 1]], np.int16)
    assert loader_side.counts(label) == loader_side.counts(label[::-1]) == (2, 1)
