"""selfseg: self-configuring medical image segmentation. The public names, and nothing else.

What stands behind a name is imported when it is asked for: `selfseg --help` and the workers of a
command, which import parts of this package, need little of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selfseg.errors import SelfSegError
    from selfseg.pipeline import (
        PlanResult,
        TrainResult,
        evaluate_predictions,
        plan_dataset,
        predict_images,
        select_models,
        train_fold,
    )
    from selfseg.requests import PlanRequest, PredictRequest, SelectRequest, TrainRequest

__all__ = [
    "PlanRequest",
    "PlanResult",
    "PredictRequest",
    "SelectRequest",
    "SelfSegError",
    "TrainRequest",
    "TrainResult",
    "evaluate_predictions",
    "plan_dataset",
    "predict_images",
    "select_models",
    "train_fold",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'selfseg' has no attribute {name!r}")
    if name == "SelfSegError":
        return import_module("selfseg.errors").SelfSegError
    module = "selfseg.requests" if name.endswith("Request") else "selfseg.pipeline"
    return getattr(import_module(module), name)
