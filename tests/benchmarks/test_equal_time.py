"""Dice after ten and twenty-five minutes of training, against nnU-Net's after as long."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from commandline import selfseg
from realdata import data_root

CONFIGURATION = "3d_fullres"
# nnU-Net 2.8.1 on two CPU cores, 40 training cases, 60 other unseen ones: 0.822 after 9.3 minutes
# and 0.854 after 23. That was measured once and elsewhere; so much more is asked for.
NNUNET = {10: 0.822, 25: 0.854}
MORE = {10: 0.02, 25: 0.01}


@pytest.mark.bench
@pytest.mark.data
@pytest.mark.parametrize("minutes", list(NNUNET))
def test_more_dice_in_the_same_time(minutes: int, tmp_path: Path) -> None:
    data, workspace, out = data_root("hippocampus"), tmp_path / "workspace", tmp_path / "out"
    commands = (
        ("plan", data, "--cases", data / "train40.txt", "--workspace", workspace,
         "--device", "cpu"),
        ("train", "hippocampus", CONFIGURATION, "all", "--workspace", workspace,
         "--device", "cpu", "--time", f"{minutes}m"),
        ("predict", "-i", data / "imagesTs", "-o", out, "-m", workspace / "hippocampus",
         "--config", CONFIGURATION, "--device", "cpu"),
        ("evaluate", "-p", out, "-r", data / "labelsTs", "--json"),
    )  # fmt: skip
    printed = ""
    for command in commands:
        done = selfseg(*map(str, command), limit_s=(60 + minutes) * 60)
        assert done.returncode == 0, done.stderr
        printed = done.stdout
    labels = json.loads(printed)["labels"]
    dice = sum(scores["dice"] for scores in labels.values()) / len(labels)
    sys.stdout.write(
        f"\n{minutes} minutes: Dice {dice:.4f}; nnU-Net {NNUNET[minutes]} on other cases\n"
    )
    assert dice >= NNUNET[minutes] + MORE[minutes]
