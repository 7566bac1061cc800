"""Options of optimization: optimizer, schedule, length, sampling."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from selfseg.records.serial import Record


class SGD(Record):
    """Stochastic gradient descent with Nesterov momentum."""

    kind: Literal["sgd"] = "sgd"
    learning_rate: float = 0.01
    momentum: float = 0.99
    nesterov: bool = True
    weight_decay: float = 3e-5


class AdamW(Record):
    """Adam with decoupled weight decay."""

    kind: Literal["adamw"] = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2


Optimizer = Annotated[SGD | AdamW, Field(discriminator="kind")]


class Poly(Record):
    """`lr · (1 − progress) ** exponent`; progress is the share of the training that is over."""

    kind: Literal["poly"] = "poly"
    exponent: float = 0.9


class WarmupCosine(Record):
    """Linear warm-up over a share of the training, then half a cosine down to zero."""

    kind: Literal["warmup_cosine"] = "warmup_cosine"
    warmup: float = 0.05


class WarmupPoly(Record):
    """Linear warm-up over a share of the training, then `(1 − rest) ** exponent` over the rest."""

    kind: Literal["warmup_poly"] = "warmup_poly"
    warmup: float = 0.05
    exponent: float = 0.9


Schedule = Annotated[Poly | WarmupCosine | WarmupPoly, Field(discriminator="kind")]


class Recipe(Record):
    """An optimizer with its schedule; `average_decay` > 0 keeps an average of the weights.

    `schedule_per_epoch`: the learning rate changes at epoch borders (nnU-Net) or every step.
    `mirror`: train (and so predict) with the mirrored axes of the augmentation.
    `rotation_limit_degrees`: caps the augmentation's rotation.
    `validation_share`: validation batches an epoch, as a share of its training steps.
    """

    optimizer: Optimizer
    schedule: Schedule
    schedule_per_epoch: bool = True
    average_decay: float = 0.0
    mirror: bool = True
    rotation_limit_degrees: float = 180.0
    validation_share: float = 0.2


class Optimization(Record):
    """How long and how to train.

    `recipe` is for full-length training; `short_recipe` for runs that are expected to make fewer
    than `short_below_steps` steps.
    """

    recipe: Recipe
    short_recipe: Recipe
    short_below_steps: int
    epochs: int = 1000
    steps_per_epoch: int = 250
    gradient_clip: float = 12.0
    foreground_share: float = 0.33
