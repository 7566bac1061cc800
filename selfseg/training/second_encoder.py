"""Where two gated encoders start: at the encoder of the same fold of the previous stage."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from selfseg.errors import ModelError, SelfSegError
from selfseg.inference.trained import ALL_CASES, PlannedDataset, trained_folds
from selfseg.networks.weights import load_weights
from selfseg.records.network import gated_encoders
from selfseg.records.plan import Configuration
from selfseg.training.state import TrainState

log = logging.getLogger(__name__)

PRIMARY = "encoder."


def source_weights(
    known: PlannedDataset, configuration: Configuration, fold: str, held_out: tuple[str, ...]
) -> Path | None:
    """Return the weights that the encoders of a fold start at; None where they start at random.

    They are those of the same fold of the previous stage, and of `all` those of its `all` or of any
    fold; never of a fold that was trained on a case that this one holds out, or on another case of
    its group.

    Raises:
        SelfSegError: There is no such fold.
    """
    gated, name = gated_encoders(configuration.network), configuration.previous_stage
    if gated is None or gated.source == "fresh" or name is None:
        return None
    (stage,) = (item for item in known.plan.configurations if item.name == name)
    trained = trained_folds(known.folder, name)
    candidates = (fold, *trained) if fold == ALL_CASES else (fold,)
    for candidate in candidates:
        if candidate in trained and _is_clean(known, stage, candidate, held_out):
            return known.folder.fold(name, candidate).weights
    raise SelfSegError(
        f"{known.folder.path}: the second encoder of {configuration.name} fold {fold} starts at "
        f"fold {fold} of {name}, which is not there as planned, or has seen held-out cases",
        remedy=f"First run 'selfseg train {shlex.quote(known.plan.dataset)} {name} {fold} "
        "--restart'.",
    )


def refuse_two_starts(configuration: Configuration) -> None:
    """Refuse another model as the start of encoders that the plan starts at the previous stage.

    Raises:
        ModelError: The plan does.
    """
    gated, name = gated_encoders(configuration.network), configuration.name
    if gated is not None and gated.source == "previous_stage":
        place = f"configurations.{name}.network.variant"
        raise ModelError(
            f"{name}: both encoders start at {configuration.previous_stage} ({place}.source), so "
            "none of another model's encoder would stay",
            remedy=f"Leave out --init, or plan with --set {place}.source=fresh: then both encoders "
            "start at the model's.",
        )


def refuse_random(configuration: Configuration) -> None:
    """Refuse random weights for a second encoder that keeps what it starts with.

    Raises:
        ModelError: The plan freezes it and gives it no source.
    """
    gated, name = gated_encoders(configuration.network), configuration.name
    if gated is not None and gated.frozen and gated.source == "fresh":
        place = f"configurations.{name}.network.variant"
        raise ModelError(
            f"{name}: the second encoder is frozen ({place}.frozen), so random weights would stay "
            "as they are",
            remedy=f"Start from a model (--init MODEL), or plan with --set {place}.frozen=false.",
        )


def start_encoders(state: TrainState, path: Path) -> None:
    """Give both encoders of a fresh network the weights of a trained one.

    Input channels that the trained one does not have keep what was drawn for them.
    """
    former = load_weights(path)
    encoder = {name: values for name, values in former.items() if name.startswith(PRIMARY)}
    own = state.network.state_dict()
    own |= _fitted(own, encoder)
    own |= _fitted(own, {f"second.{name}": values for name, values in encoder.items()})
    state.network.load_state_dict(own)
    weights = dict(state.network.named_parameters())
    with torch.no_grad():
        for name, values in state.average.items():
            values.copy_(weights[name])
    log.info("Both encoders start at %s", path)


def _fitted(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return given weights in the shapes of the own ones, which may have more input channels."""
    fitted = {}
    for name, values in given.items():
        if own[name].shape == values.shape:
            fitted[name] = values
            continue
        wider = own[name].clone()
        wider[:, : values.shape[1]] = values.to(wider)
        fitted[name] = wider
    return fitted


def _is_clean(
    known: PlannedDataset, stage: Configuration, fold: str, held_out: tuple[str, ...]
) -> bool:
    """Tell whether a fold fits plan and data, and has seen nothing of what is held out."""
    trained = known.describe(stage, fold)
    if trained is None or known.fault(stage, trained):
        return False
    return known.dataset.with_groups(trained.train_cases).isdisjoint(held_out)
