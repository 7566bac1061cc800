"""selfseg: self-configuring medical image segmentation. The public names, and nothing else."""

from selfseg.errors import SelfSegError
from selfseg.pipeline import (
    PlanRequest,
    PlanResult,
    PredictRequest,
    TrainRequest,
    TrainResult,
    evaluate_predictions,
    plan_dataset,
    predict_images,
    train_fold,
)

__all__ = [
    "PlanRequest",
    "PlanResult",
    "PredictRequest",
    "SelfSegError",
    "TrainRequest",
    "TrainResult",
    "evaluate_predictions",
    "plan_dataset",
    "predict_images",
    "train_fold",
]
