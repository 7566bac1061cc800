"""Find and load a trained model: its plan, one configuration, and the weights of its folds."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from selfseg.errors import ModelError
from selfseg.inference.ensemble import MeanOfLogits, weights_bytes
from selfseg.inference.find import Candidate, choose_model, dataset_folders
from selfseg.inference.openvino_engine import computed_by
from selfseg.inference.quality import LabelShape, load_shapes
from selfseg.inference.trained import (
    ALL_CASES,
    changed_members,
    weights_digest,
)
from selfseg.networks.build import build_network
from selfseg.networks.layout import CHANNELS_LAST, set_layout
from selfseg.networks.one_hot import OneHotInput
from selfseg.networks.weights import load_weights
from selfseg.records import serial
from selfseg.records.crf import DenseCrf
from selfseg.records.model import Engine, TrainedFold
from selfseg.records.plan import Configuration, Plan
from selfseg.records.postprocessing import Step
from selfseg.records.selection import Selection
from selfseg.words import named
from selfseg.workspace.dataset import DatasetFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Model:
    """A trained configuration, ready to predict.

    Attributes:
        folder: Where it was found.
        plan: The plan it was trained with.
        configuration: The configuration in it.
        folds: The folds whose logits are averaged.
        mirror_axes: Planned axes of mirroring that every fold was trained with.
        network: All folds as one network in eval mode; gives a tuple with one entry. In a
            cascade its last input channel is the label map of the previous stage. Its weights are
            in main memory; see `selfseg.inference.ensemble.turn`.
        device: Where the network computes.
        shapes: Accepted shape models of the folds, for quality scores.
        engine: What computes the networks.
    """

    folder: Path
    plan: Plan
    configuration: Configuration
    folds: tuple[str, ...]
    mirror_axes: tuple[int, ...]
    network: nn.Module
    device: torch.device
    shapes: tuple[LabelShape, ...] = ()
    engine: Engine = "torch"

    @property
    def outputs(self) -> int:
        """Output channels of the network."""
        return self.plan.targets.outputs

    @property
    def weights_gib(self) -> float:
        """Main memory that the weights of all folds take."""
        return weights_bytes(self.network) / 2**30

    @property
    def description(self) -> str:
        """Which model this is, in one line."""
        folds = named("fold", self.folds)
        return f"{self.plan.dataset} {self.configuration.name}, {folds} ({self.folder})"


@dataclass(frozen=True)
class Ensemble:
    """Several trained configurations whose probabilities are averaged, and post-processing.

    Attributes:
        members: At least one.
        steps: What is done to the label map.
        crf: Refines the mean of their probabilities before; None: nothing does.
    """

    members: tuple[Model, ...]
    steps: tuple[Step, ...] = ()
    crf: DenseCrf | None = None

    @property
    def weights_gib(self) -> float:
        """Main memory that the weights of all members take."""
        return sum(member.weights_gib for member in self.members)

    @property
    def description(self) -> str:
        """Which members and steps these are, in one line."""
        first = self.members[0]
        parts = (f"{m.configuration.name} ({named('fold', m.folds)})" for m in self.members)
        steps = [f"{step.kind} of {step.name or 'foreground'}" for step in self.steps]
        if self.crf is not None:
            steps.insert(0, "dense CRF")
        cleaned = f", then {', '.join(steps)}" if steps else ""
        return f"{first.plan.dataset} {' + '.join(parts)}{cleaned}"


def load_ensemble(
    folder: Path,
    *,
    configuration: str | None = None,
    folds: Sequence[str] | None = None,
    device: torch.device,
    engine: Engine = "torch",
) -> Ensemble:
    """Load what a folder's selection.json chose; without one, or if asked otherwise, one model.

    The arguments and errors are those of `load_model`. A selection whose weights have changed is
    not used, with a warning.
    """
    selected = None if configuration or folds else _selected(folder)
    if selected is None:
        model = load_model(
            folder, configuration=configuration, folds=folds, device=device, engine=engine
        )
        return Ensemble((model,))
    dataset, selection = selected
    members = tuple(
        load_model(
            dataset.path,
            configuration=member.configuration,
            folds=member.folds,
            device=device,
            engine=engine,
        )
        for member in selection.members
    )
    log.info("Using %s", dataset.selection.name)
    return Ensemble(members, selection.postprocessing, selection.crf)


def _selected(folder: Path) -> tuple[DatasetFolder, Selection] | None:
    """Return the one selection that a folder holds and that fits its models."""
    datasets = dataset_folders(folder)
    if len(datasets) != 1 or not datasets[0].selection.is_file():
        return None  # of several data sets, load_model lists what there is
    dataset = datasets[0]
    selection = serial.load(Selection, dataset.selection)
    changed = changed_members(dataset, serial.load(Plan, dataset.plan), selection)
    if not changed:
        return dataset, selection
    log.warning(
        "%s is not used: since it was made weights have changed or gone, those of %s or of the "
        "stage before. Run 'selfseg select %s' again.",
        dataset.selection,
        ", ".join(changed),
        shlex.quote(dataset.path.name),
    )
    return None


def load_model(
    folder: Path,
    *,
    configuration: str | None = None,
    folds: Sequence[str] | None = None,
    device: torch.device,
    engine: Engine = "torch",
) -> Model:
    """Load the one model that a folder holds.

    Args:
        folder: A workspace, a dataset's folder in it, or any folder with plan.json and models/.
        configuration: Name of the configuration; needed if several are trained.
        folds: Folds to average. Default: every trained fold of the cross-validation, else `all`.
        device: Where to compute.
        engine: What computes; `openvino` is for CPUs, see `selfseg.inference.openvino_engine`.

    Raises:
        ModelError: There is no such model, or more than one; the message lists what there is.
    """
    candidate = choose_model(folder, configuration, folds)
    chosen = tuple(folds) if folds else default_folds(candidate.folds)
    trained = [describe_fold(candidate, fold) for fold in chosen]
    networks = [
        computed_by(
            engine,
            load_fold(candidate, fold, device),
            name=f"{candidate.configuration.name} fold {fold}",
            regions=bool(candidate.plan.targets.regions),
        )
        for fold in chosen
    ]
    planned = candidate.configuration.inference.mirror_axes
    return Model(
        folder=candidate.folder.path,
        plan=candidate.plan,
        configuration=candidate.configuration,
        folds=chosen,
        mirror_axes=tuple(a for a in planned if all(a in fold.mirror_axes for fold in trained)),
        network=_whole(candidate, networks).eval(),
        device=device,
        shapes=tuple(
            shape
            for fold in chosen
            for shape in load_shapes(candidate.folder.fold(candidate.configuration.name, fold))
        ),
        engine=engine,
    )


def default_folds(trained: Sequence[str]) -> tuple[str, ...]:
    """Return the folds that are averaged where none are asked for."""
    return tuple(name for name in trained if name != ALL_CASES) or tuple(trained)


def _whole(candidate: Candidate, networks: Sequence[nn.Module]) -> nn.Module:
    """Return the networks of all folds as one."""
    mean = MeanOfLogits(networks)
    if candidate.configuration.previous_stage is None:
        return mean
    return OneHotInput(mean, len(candidate.plan.labels))


def load_fold(candidate: Candidate, fold: str, device: torch.device) -> nn.Module:
    """Build the network of a fold in main memory and fill in its weights, ready for a device.

    Raises:
        ModelError: The weights do not fit the network.
    """
    configuration, plan = candidate.configuration, candidate.plan
    files = candidate.folder.fold(configuration.name, fold)
    network = build_network(
        configuration.network,
        channels=plan.input_channels(configuration),
        outputs=plan.targets.outputs,
    )
    weights = load_weights(files.weights)
    complaints = _misfits(network, weights)
    if complaints:
        raise ModelError(
            f"{files.weights}: weights do not fit the network of the plan: {'; '.join(complaints)}",
            remedy="Restore the plan that this model was trained with, or train again.",
        )
    network.load_state_dict(weights)
    network.eval().requires_grad_(False)
    if device.type == "cpu":
        set_layout(network, CHANNELS_LAST[len(configuration.patch)])
    return network


def describe_fold(candidate: Candidate, fold: str) -> TrainedFold:
    """Read how a fold was trained.

    Raises:
        ModelError: What its weights depend on was edited since.
    """
    configuration = candidate.configuration
    path = candidate.folder.fold(configuration.name, fold).description
    trained = serial.load(TrainedFold, path)
    if trained.plan_digest != weights_digest(candidate.plan, configuration):
        raise ModelError(
            f"{path}: trained with another plan: channels, labels, preprocessing, network or crop "
            f"of configuration {configuration.name} have changed since",
            remedy="Restore the plan that this model was trained with, or train again.",
        )
    return trained


def _misfits(network: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """Return what is missing, left over or of another shape in a file of weights."""
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    missing = sorted(expected.keys() - found.keys())
    unexpected = sorted(found.keys() - expected.keys())
    reshaped = [
        f"{name} is {found[name]}, not {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    complaints = [f"missing {_first(missing)}"] if missing else []
    complaints += [f"unexpected {_first(unexpected)}"] if unexpected else []
    complaints += [_first(reshaped)] if reshaped else []
    return complaints


def _first(items: Sequence[str], shown: int = 5) -> str:
    more = f" and {len(items) - shown} more" if len(items) > shown else ""
    return ", ".join(items[:shown]) + more
