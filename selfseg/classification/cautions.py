"""What must be said of a classifier whose scores tell nothing of the class, in plain words."""

from __future__ import annotations

from scipy.special import expit

from selfseg.classification.train import Training
from selfseg.records.classification import ClassifierModel


def model_warnings(model: ClassifierModel) -> list[str]:
    """Return what a user of a model must know before believing it; empty if it tells something."""
    if model.fitted.calibration.informed:
        return []
    same = float(expit(model.fitted.calibration.intercept))
    return [
        "this classifier tells nothing: in its training, scores of held-out patients ranked the "
        f"classes no better than chance. Every region gets the same probability, {same:.2f}, and "
        f"is called {model.positive!r}; do not decide anything by it"
    ]


def training_warnings(training: Training) -> list[str]:
    """Return the same of a training, and how many of its outer folds had nothing to tell."""
    found = model_warnings(training.model)
    folds = training.out_of_fold
    if folds.uninformed:
        found.append(
            f"in {folds.uninformed} of {folds.num_folds} outer folds scores told nothing of the "
            "class: every region held out there has the same probability and is called "
            f"{training.model.positive!r}"
        )
    missing = training.model.scores.missing
    if missing:
        found.append(f"{len(missing)} labeled regions are not in their masks and were left out")
    return found
