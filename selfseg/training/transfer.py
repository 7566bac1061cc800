"""Map the weights of a trained network to another one of its kind, by place and shape."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from selfseg.errors import ModelError
from selfseg.networks.adapt import PREVIOUS, fit_head, fit_inputs, fit_kernel
from selfseg.networks.counterparts import (
    ENCODER,
    SECOND,
    counterpart,
    is_head,
    is_stem,
    is_upsampling,
)
from selfseg.networks.low_rank import PREFIX as UPDATES
from selfseg.records.dataset import Dataset
from selfseg.records.network import Network, gated_encoders, plain_part
from selfseg.records.plan import Configuration, Plan
from selfseg.records.preprocessing import Preprocessing
from selfseg.records.source import SourceFacts
from selfseg.records.transfer import StartModel, TensorNote, TransferReport
from selfseg.training.seen import Seen


@dataclass(frozen=True)
class Ends:
    """A network's options, and the names of what goes in and comes out of it.

    Attributes:
        network: Options.
        inputs: Channels, and in a cascade the labels of the previous stage.
        outputs: Background and labels, or regions.
    """

    network: Network
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @classmethod
    def of(cls, plan: Plan, configuration: Configuration) -> Ends:
        """Return those of a planned network."""
        previous = plan.labels if configuration.previous_stage is not None else ()
        regions = tuple(region.name for region in plan.regions)
        return cls(
            network=configuration.network,
            inputs=(*plan.channels, *(PREVIOUS + label.name for label in previous)),
            outputs=regions or ("background", *(label.name for label in plan.labels)),
        )

    def inputs_of(self, name: str) -> tuple[str, ...]:
        """Return the inputs that a kernel sees: a second encoder may see the first ones only."""
        gated = gated_encoders(self.network)
        if not name.startswith(SECOND) or gated is None:
            return self.inputs
        return self.inputs[: gated.channels]


@dataclass(frozen=True)
class SourceModel:
    """A trained network to start from, from whatever files it was read.

    Attributes:
        model: Which it is.
        files: Folder that it can be loaded from; it may be gone later, other than `model.folder`.
        configuration: What it was trained as.
        ends: Its network, and what that sees and gives.
        channels: Names of its images.
        labels: Names of its labels or regions; none where it was pretrained without.
        weights: By the names of selfseg's networks.
        train_cases: Ids of the cases that it was trained on.
        seen: What it has seen with labels, as far as is known.
    """

    model: StartModel
    files: Path
    configuration: Configuration
    ends: Ends
    channels: tuple[str, ...]
    labels: tuple[str, ...]
    weights: Mapping[str, Tensor]
    train_cases: tuple[str, ...] = ()
    seen: Seen = field(default_factory=Seen)

    def seen_cases(self, dataset: Dataset) -> frozenset[str]:
        """Return ids of the cases of a data set that it was trained on.

        Where it is not known what it has seen, ids of a data set of the same name must do.
        """
        known = self.seen.cases(dataset)
        same = self.seen.unknown and self.model.dataset == dataset.name
        return known.union(self.train_cases) if same else known

    def touched_cases(self, dataset: Dataset) -> frozenset[str]:
        """Return ids of the cases that it was trained on, and of all others of their groups."""
        return self.seen.mates(dataset) | dataset.with_groups(self.seen_cases(dataset))

    @property
    def facts(self) -> SourceFacts:
        """What a planner may know of it."""
        return SourceFacts(
            model=self.model,
            channels=self.channels,
            labels=self.labels,
            configuration=self.configuration,
        )


@dataclass(frozen=True)
class Fit:
    """What becomes of one tensor: a value and how it was adapted ('': as it is), or why none."""

    value: Tensor | None
    note: str = ""
    there: str | None = None


@dataclass
class _Tally:
    """Grows while tensors are mapped."""

    weights: dict[str, Tensor] = field(default_factory=dict)
    loaded: list[str] = field(default_factory=list)
    adapted: list[TensorNote] = field(default_factory=list)
    fresh: list[TensorNote] = field(default_factory=list)
    used: set[str] = field(default_factory=set)

    def add(self, name: str, own: Tensor, fit: Fit) -> None:
        """Count a tensor in."""
        if fit.value is None:
            self.weights[name] = own
            self.fresh.append(TensorNote(name=name, note=fit.note))
            return
        self.weights[name] = fit.value
        if fit.there is not None:
            self.used.add(fit.there)
        if fit.note:
            self.adapted.append(TensorNote(name=name, note=fit.note))
        else:
            self.loaded.append(name)

    def share(self, names: set[str]) -> float:
        """Return the share of all numbers that stand in some tensors."""
        total = sum(value.numel() for value in self.weights.values())
        return round(sum(self.weights[name].numel() for name in names) / total, 4)


def map_weights(
    source: SourceModel, own: Mapping[str, Tensor], target: Ends, configuration: Configuration
) -> tuple[dict[str, Tensor], TransferReport]:
    """Return weights for a network, taken from a source where they fit, and what became of each.

    Args:
        source: Where they come from.
        own: The network's fresh weights; they stay where nothing fits.
        target: The network.
        configuration: It is trained as.

    Raises:
        ModelError: The source is another kind of network, nothing of its encoder fits, or not all
            of a second encoder that is frozen.
    """
    kinds = _kind(source.configuration.network), _kind(target.network)
    if len(set(kinds)) > 1:
        raise misfit(source, configuration, f"it is a {kinds[0]}, the plan wants a {kinds[1]}")
    tally = _Tally()
    for name, value in own.items():
        tally.add(name, value, _fit(name, value, source, target))
    if because := _fault(tally, own, source, target):
        raise misfit(source, configuration, because)
    report = TransferReport(
        source=source.model,
        strategy=configuration.transfer,
        loaded=tuple(tally.loaded),
        adapted=tuple(tally.adapted),
        fresh=tuple(tally.fresh),
        skipped=tuple(sorted(source.weights.keys() - tally.used)),
        loaded_share=tally.share(set(tally.loaded)),
        adapted_share=tally.share({note.name for note in tally.adapted}),
        notes=tuple(differences(source, configuration)),
    )
    return tally.weights, report


def _fault(tally: _Tally, own: Mapping[str, Tensor], source: SourceModel, target: Ends) -> str:
    """Return why what was mapped is no start; '' if it is one."""
    kernels = [n for n in _taken(tally) if n.startswith(ENCODER) and own[n].dim() > 2]
    if not kernels:
        wanted, there = target.network.features, source.configuration.network.features
        return f"its encoder has widths {_widths(there)}, not {_widths(wanted)}"
    gated = gated_encoders(target.network)
    if gated is not None and gated.frozen:
        random = [note for note in tally.fresh if note.name.startswith(SECOND + ENCODER)]
        if random:
            return (
                "the second encoder is frozen (network.variant.frozen), and would keep random "
                f"weights: {random[0].name}: {random[0].note}"
            )
    return ""


def misfit(source: SourceModel, configuration: Configuration, because: str) -> ModelError:
    """Return the error of a source that a configuration cannot start from."""
    return ModelError(
        f"{configuration.name} cannot start from {source.model.title}: {because}",
        remedy="Make a plan that fits it: 'selfseg plan DATASET --init "
        f"{shlex.quote(source.model.folder)} --init-config {source.model.configuration}'; "
        "or choose another model.",
    )


def differences(source: SourceModel, configuration: Configuration) -> list[str]:
    """Return what images look like otherwise than those that the source was trained on."""
    there, here = source.configuration.preprocessing, configuration.preprocessing
    notes = []
    if there.normalization != here.normalization:
        notes.append(
            "images are normalized otherwise than for the model "
            f"({', '.join(n.kind for n in here.normalization)} here, "
            f"{', '.join(n.kind for n in there.normalization)} there); 'selfseg plan --init' "
            "takes the model's"
        )
    axes = [(p.orientation, "".join("ZYX"[axis] for axis in p.axes)) for p in (here, there)]
    if axes[0] != axes[1]:
        (ours, order), (theirs, other) = axes
        notes.append(f"axes are {order} ({ours}) here, {other} ({theirs}) there")
    if there.spacing_mm != here.spacing_mm:
        notes.append(f"spacing is {_spacing(here)} mm here, {_spacing(there)} mm there")
    return notes


def _fit(name: str, own: Tensor, source: SourceModel, target: Ends) -> Fit:
    """Return what becomes of one tensor."""
    ends = source.ends
    there = counterpart(name, target.network, ends.network)
    found = None if there is None else source.weights.get(there)
    if name.startswith(UPDATES) or found is None:
        return Fit(None, "the model has none")
    if not is_head(name, target.network):
        return _fit_body(name, own, found, source, target, there)
    outputs = target.outputs, ends.outputs
    here, beyond = ("labels" if o[0] == "background" else "regions" for o in outputs)
    if here != beyond:
        return Fit(None, f"{here} here, {beyond} there")
    shape = torch.Size((len(found), *own.shape[1:]))
    resized = fit_kernel(found, shape, upsampling=False) if own.dim() > 2 else (found, "")
    fitted = resized and fit_head(resized[0], own, ends.outputs, target.outputs)
    if resized is None or fitted is None:
        return Fit(None, f"other outputs: {', '.join(ends.outputs)} there")
    return Fit(fitted[0], _joined(fitted[1], resized[1]), there)


def _fit_body(
    name: str, own: Tensor, found: Tensor, source: SourceModel, target: Ends, there: str | None
) -> Fit:
    value, note = found, ""
    if there is not None and is_stem(name):
        value, note = fit_inputs(found, source.ends.inputs_of(there), target.inputs_of(name))
    if own.dim() > 2:
        resized = fit_kernel(value, own.shape, upsampling=is_upsampling(name))
    else:
        resized = (value, "") if value.shape == own.shape else None
    if resized is None:
        return Fit(None, f"shape {list(own.shape)} here, {list(found.shape)} there")
    return Fit(resized[0].to(own.dtype), _joined(note, resized[1]), there)


def _kind(network: Network) -> str:
    """Return the kind of a network, of one with a second source that of its backbone."""
    return (plain_part(network) or network).kind


def _taken(tally: _Tally) -> list[str]:
    return [*tally.loaded, *(note.name for note in tally.adapted)]


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def _widths(features: tuple[int, ...]) -> str:
    return ", ".join(map(str, features))


def _spacing(preprocessing: Preprocessing) -> str:
    values = preprocessing.spacing_mm
    return "×".join("own" if value is None else f"{value:g}" for value in values)
