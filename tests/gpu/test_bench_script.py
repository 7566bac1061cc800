"""The GPU benchmark runs at toy size on any machine, so that it is ready where there is one."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace

import gpusteps
import pytest
import torch

SCRIPT = Path(__file__).with_name("bench.py")
PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
TORCH_BRINGS = {"torch", "setuptools", "filelock", "fsspec", "jinja2", "markupsafe", "mpmath",
                "networkx", "sympy", "typing_extensions"}  # fmt: skip
BARE = """
import json, runpy, sys
packages, blocked, *sys.argv = sys.argv[1:]
sys.path.append(packages)
sys.modules.update(dict.fromkeys(json.loads(blocked)))  # importing one of these fails
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def other_packages() -> list[str]:
    """Return the names of all modules here that the page does not ask for on a GPU machine."""
    (told,) = re.findall(r"packages beside torch: (.*?)\.", PAGE.read_text(), re.DOTALL)
    asked = {name.replace("-", "_").lower() for name in re.findall(r"`([^`]+)`", told)}
    assert {"numpy", "pydantic", "blosc2"} <= asked
    known = asked | TORCH_BRINGS
    return [
        module
        for module, names in metadata.packages_distributions().items()
        if module not in sys.stdlib_module_names
        and not known & {name.replace("-", "_").lower() for name in names}
    ]


@pytest.mark.slow
def test_toy_size_on_a_bare_machine(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    others = other_packages()
    assert {"selfseg", "SimpleITK", "sklearn"} <= set(others)
    blocked = json.dumps([name for name in others if name != "selfseg"])  # that is in the tree
    packages = str(Path(pytest.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-S", "-c", BARE, packages, blocked, str(SCRIPT), "--toy", "--out", out],
        capture_output=True, text=True, timeout=600, check=False, cwd="/",
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert found["skipped"] == []
    rows = found["rows"]
    whole = [row for row in rows if row["what"] == "selfseg, loading and augmenting"]
    assert [row["network"] for row in whole] == ["plain", "ResEnc-L"]
    assert all(row["ms_per_step"] > 0 and row["rounds"] == 3 for row in rows)
    assert all(min(row["tiles_per_s"], row["scoring_s"], row["checkpoint_s"]) > 0 for row in whole)
    layouts = {(row["network"], row["what"]): row["layout"] for row in rows}
    for network in ("plain", "ResEnc-L"):
        chosen = layouts[network, "selfseg, layout that it chose"]
        assert chosen == layouts[network, "selfseg, loading and augmenting"]
        assert {chosen, layouts[network, "selfseg, other layout"]} == {
            "channels_last_3d", "contiguous_format",
        }  # fmt: skip


@pytest.mark.slow
def test_what_there_is_no_time_for_is_told(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    command = [sys.executable, str(SCRIPT), "--toy", "--limit-s", "0", "--out", str(out)]
    subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    found = json.loads(out.read_text())
    assert found["rows"] == []
    assert [line.split(":")[0] for line in found["skipped"]] == ["plain", "ResEnc-L"]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the script as a module, of one tiny network."""
    monkeypatch.setattr(sys, "path", [*sys.path])  # it adds to it
    described = importlib.util.spec_from_file_location("bench_script", SCRIPT)
    assert described is not None
    assert described.loader is not None
    script = importlib.util.module_from_spec(described)
    described.loader.exec_module(script)
    of_size = script.networks
    monkeypatch.setattr(script, "networks", lambda size: {"plain": of_size(size)["plain"]})
    monkeypatch.setattr(script, "has_nnunet", lambda: True)
    return script


def run(script: ModuleType, out: Path) -> tuple[int, list[str], dict[str, int]]:
    """Return the script's exit code, what it skipped, and the rounds of what it measured."""
    code = script.main(["--toy", "--workers", "0", "--out", str(out)])
    found = json.loads(out.read_text())
    return code, found["skipped"], {row["what"]: row["rounds"] for row in found["rows"]}


class Failing:
    """A side that fails after some steps."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("no kernel image")


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "rounds"), [(-1, 0), (0, 0), (1, 0), (3, 1)])
def test_a_failing_side_costs_no_figure_of_ours(
    tmp_path: Path, bench: ModuleType, monkeypatch: pytest.MonkeyPatch, steps: int, rounds: int
) -> None:
    """It fails when built, in its warm-up, or in a turn; ours has been written by then."""
    out, before = tmp_path / "found.json", []

    def make(*_: object, compiled: bool) -> Failing:
        before.append(json.loads(out.read_text())["rows"])
        if steps < 0:
            raise ImportError("no dynamic networks")
        return Failing(steps)

    monkeypatch.setattr(bench, "Theirs", make)
    code, skipped, found = run(bench, out)
    assert code == 1
    assert [row["what"] for row in before[0]] == [bench.OURS]
    assert before[0][0]["tiles_per_s"] > 0
    assert found.pop(f"{bench.THEIRS}, eager", 0) == rounds
    assert found == {
        bench.OURS: 3, bench.HELD: 3,
        "selfseg, layout that it chose": 3, "selfseg, other layout": 3,
    }  # fmt: skip
    text = "ImportError: no dynamic networks" if steps < 0 else "RuntimeError: no kernel image"
    assert len(skipped) == 1
    assert skipped[0].startswith(f"plain: {bench.THEIRS}, eager")
    assert skipped[0].endswith(text)


@pytest.mark.slow
def test_a_failing_detail_or_network_leaves_the_rest(
    tmp_path: Path, bench: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("too large")

    monkeypatch.setattr(bench, "has_nnunet", lambda: False)
    for name in ("busy_and_waited", "tiles_per_second", "epoch_end"):
        monkeypatch.setattr(bench, name, fail)
    code, skipped, found = run(bench, tmp_path / "details.json")
    assert code == 1
    assert len(skipped) == 3
    assert found[bench.OURS] == 3
    whole, of_size = bench.measure, bench.networks
    two = {"broken": None, **of_size(bench.TOY)}
    monkeypatch.setattr(bench, "networks", lambda _: two)
    monkeypatch.setattr(
        bench, "measure", lambda name, *rest: (whole if name == "plain" else fail)(name, *rest)
    )
    code, skipped, found = run(bench, tmp_path / "networks.json")
    assert code == 1
    assert skipped[0] == "broken: MemoryError: too large"
    assert found[bench.OURS] == 3


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **content: object) -> None:
    """Let a module of nnU-Net be there, with some content."""
    module = ModuleType(name)
    for key, value in content.items():
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.parametrize(
    ("compiled", "parts"), [(True, {"compiled network", "compiled dice"}), (False, set())]
)
def test_theirs_compiles_network_and_dice_as_its_trainer_does(
    monkeypatch: pytest.MonkeyPatch, compiled: bool, parts: set[str]
) -> None:
    network, dice = torch.nn.Conv3d(1, 3, 1), torch.nn.Identity()
    loss = SimpleNamespace(dc=dice)
    unet = SimpleNamespace(PlainConvUNet=lambda **_: network)
    stand_in(monkeypatch, "dynamic_network_architectures.architectures", unet=unet)
    losses = "nnunetv2.training.loss"
    stand_in(monkeypatch, f"{losses}.compound_losses", DC_and_CE_loss=lambda *_, **__: loss)
    stand_in(monkeypatch, f"{losses}.deep_supervision", DeepSupervisionWrapper=lambda part, _: part)
    stand_in(monkeypatch, f"{losses}.dice", MemoryEfficientSoftDiceLoss=None)
    for name in ("dynamic_network_architectures", "nnunetv2", "nnunetv2.training", losses):
        stand_in(monkeypatch, name)
    names: dict[object, str] = {network: "network", dice: "dice"}
    monkeypatch.setattr(torch, "compile", lambda module: f"compiled {names[module]}")
    theirs = gpusteps.Theirs("plain", gpusteps.TOY, torch.device("cpu"), compiled=compiled)
    assert {part for part in (theirs.network, loss.dc) if isinstance(part, str)} == parts
