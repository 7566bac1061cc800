"""selfseg: self-configuring medical image segmentation. The public names, and nothing else."""

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
