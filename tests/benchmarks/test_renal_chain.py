"""Twenty cases and two hundred borrowed ones: two stages, then benign or malignant, unseen."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from commandline import selfseg

from selfseg.phantoms.renal import AUXILIARY, PRIMARY, write_renal_dataset

# Sizes of the whole: about half an hour on two quiet cores.
TRAIN, TEST, BORROWED = 20, 30, 200
SEED = 127  # as many benign as malignant, in both parts
FOLDS = 5
COARSE_STEPS, FINE_STEPS = 600, 500
EPOCHS = 10
LIMIT_S = 6 * 3600  # of a command, on a machine that has other work
FEATURES = [8, 16, 32, 64]
MEMORY = "150MB"  # patches that see a tenth of an image, so that there are two stages

GATED = {"kind": "gated_encoders", "channels": 1, "source": "previous_stage", "frozen": True}


class Chain:
    """The commands of docs/few-cases.md, one after the other, in one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.model = root / "workspace" / "renal"

    def run(self, *arguments: str | Path) -> str:
        """Run a command; return what it prints."""
        done = selfseg(*map(str, arguments), limit_s=LIMIT_S)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def plan(self) -> None:
        """Borrow in the coarse stage; a second, frozen encoder in the fine one."""
        write_renal_dataset(
            self.root / "renal", name="renal", style=PRIMARY, train=TRAIN, test=TEST, seed=SEED
        )
        write_renal_dataset(
            self.root / "renal_public", name="renal_public", style=AUXILIARY, train=BORROWED,
            test=0, seed=SEED + 1,
        )  # fmt: skip
        settings = (
            f"configurations.3d_cascade.network.variant={json.dumps(GATED)}",
            f"configurations.3d_lowres.network.backbone.features={FEATURES}",
            f"configurations.3d_cascade.network.backbone.features={FEATURES}",
        )
        self.run(
            "plan", self.root / "renal", "--auxiliary", self.root / "renal_public",
            "--workspace", self.model.parent, "--device", "cpu", "--memory", MEMORY,
            "--no-preprocess", *(part for value in settings for part in ("--set", value)),
        )  # fmt: skip

    def train(self, configuration: str, steps: int) -> None:
        """Train all folds of a configuration."""
        for fold in map(str, range(FOLDS)):
            self.run(
                "train", "renal", configuration, fold, "--workspace", self.model.parent,
                "--device", "cpu", "--epochs", str(EPOCHS),
                "--steps-per-epoch", str(steps // EPOCHS),
            )  # fmt: skip
            sys.stdout.write(f"{configuration} fold {fold} trained\n")
            sys.stdout.flush()

    def unseen_dice(self, configuration: str) -> dict[str, float]:
        """Predict the test cases with all folds; return the mean Dice of each label."""
        out = self.root / configuration
        self.run(
            "predict", "-i", self.root / "renal" / "imagesTs", "-o", out, "-m", self.model,
            "--config", configuration, "--device", "cpu",
        )  # fmt: skip
        found = json.loads(
            self.run("evaluate", "-p", out, "-r", self.root / "renal" / "labelsTs", "--json")
        )
        return {name: scores["dice"] for name, scores in found["labels"].items()}

    def diagnose(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Learn from masks of held-out cases; return the scores held out and on unseen cases."""
        data, model = self.root / "renal", self.root / "diagnosis"
        folds = (self.model / "models/3d_cascade" / f"fold_{k}" for k in range(FOLDS))
        column = ("--label-column", "diagnosis", "--positive", "malignant")
        self.run(
            "classify", "train", "-i", data / "imagesTr", "-l", data / "diagnosisTr.csv", *column,
            *(part for fold in folds for part in ("-p", fold / "validation")),
            "--region", "tumor", "-o", model,
        )  # fmt: skip
        table = self.root / "probabilities.csv"
        self.run(
            "classify", "predict", "-i", data / "imagesTs", "-p", self.root / "3d_cascade",
            "-m", model, "-o", table,
        )  # fmt: skip
        unseen = self.run(
            "classify", "evaluate", "-p", table, "-l", data / "diagnosisTs.csv", *column, "--json"
        )
        return json.loads((model / "scores.json").read_text()), json.loads(unseen)


def auc(scores: dict[str, Any]) -> str:
    """Return the AUC with its interval, and how many tumors the segmentation missed."""
    value = scores["auc"]
    text = f"AUC {value['value']:.3f} ({value['lower']:.3f} to {value['upper']:.3f})"
    return f"{text}, {len(scores['missing'])} tumors not found"


@pytest.mark.bench
def test_few_cases_borrow_and_tumors_are_told_apart(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.plan()
    chain.train("3d_lowres", COARSE_STEPS)
    chain.train("3d_cascade", FINE_STEPS)
    coarse, fine = (chain.unseen_dice(name) for name in ("3d_lowres", "3d_cascade"))
    held_out, unseen = chain.diagnose()
    sys.stdout.write(
        f"\nunseen Dice: kidney {fine['kidney']:.4f}, tumor {fine['tumor']:.4f} "
        f"(coarse stage alone {coarse['kidney']:.4f}, {coarse['tumor']:.4f})\n"
        f"malignant, held out: {auc(held_out)}\n"
        f"malignant, unseen: {auc(unseen)}\n"
    )
    assert fine["kidney"] > 0.85
    assert fine["tumor"] > 0.5
    assert not unseen["missing"]  # twenty cases do not tell benign from malignant: few-cases.md
