"""All decisions about a dataset, each with its reason."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import ClassVar, Literal

from selfseg.records.augmentation import Augmentation
from selfseg.records.auxiliary import Auxiliary
from selfseg.records.crf import CrfGrid
from selfseg.records.crop import Crop
from selfseg.records.dataset import Label, Region, Targets
from selfseg.records.ideas import Idea
from selfseg.records.loss import Loss
from selfseg.records.loss_terms import ShapeCodeTerm
from selfseg.records.names import ConfigurationName
from selfseg.records.network import ContextUNet, Network
from selfseg.records.optimization import Optimization
from selfseg.records.preprocessing import Preprocessing
from selfseg.records.serial import GrownRecord, Record, Triple
from selfseg.records.shape_model import ShapeOptions
from selfseg.records.transfer import FineTune, Start, Transfer


class Budget(Record):
    """What a plan must fit: memory of the training device, and what device that is."""

    memory_gib: float
    device: Literal["cpu", "cuda"]

    def estimates(self, of_step: Callable[..., float]) -> tuple[float, float | None]:
        """Return what a plan says of the memory of a step, in GiB, to three digits.

        Args:
            of_step: Its memory by `bfloat16`: whether it computes in that, which CPUs may.
        """
        plain, reduced = (float(f"{of_step(bfloat16=value):.3g}") for value in (False, True))
        return plain, None if self.device == "cuda" else reduced


class Decision(Record):
    """One choice: the rule that made it, its value, the evidence, what else was possible.

    `subject` is the plan's path the value stands at (`configurations.3d_fullres.batch`), or a
    topic such as `configurations.3d_lowres` when something was left out.
    """

    rule: str
    subject: str
    value: str
    because: str
    alternatives: tuple[str, ...] = ()


class Inference(GrownRecord):
    """Sliding-window prediction.

    Attributes:
        step: Largest distance of two windows, in patches.
        mirror_axes: Axes whose mirror images are averaged.
        window_sigma: Width of the window weight, in patches.
        window_weight: `exact`: a product of Gaussians. `float16`: that product times ten as nnU-Net
            rounds it; where it would be 0, its smallest positive value.
        precision: `fast`: bfloat16 where the device computes fast in it. `fine`: float16 (three
            more binary digits) on GPUs, as nnU-Net, and on CPUs with AMX-FP16; else float32.
    """

    step: float = 0.5
    mirror_axes: tuple[int, ...] = ()
    window_sigma: float = 0.125
    window_weight: Literal["exact", "float16"] = "exact"
    precision: Literal["fast", "fine"] = "fast"

    later: ClassVar[frozenset[str]] = frozenset({"window_weight", "precision"})


class Configuration(GrownRecord):
    """One trainable set of decisions. Per-axis tuples are in working order.

    Attributes:
        name: 2d, 3d_fullres, …
        preprocessing: Image → training array; equal ones share the stored arrays.
        median_shape: Median shape of the training cases at the working spacing.
        patch: Two entries (Y, X) for a 2D network, three for 3D; (slices, Y, X) for 2.5D.
        batch: Patches per optimizer step.
        memory_gib: Estimated memory of a training step.
        memory_bfloat16_gib: The same on a CPU that computes in bfloat16; None: not estimated.
        network, loss, augmentation, optimization, inference: Options of the parts.
        previous_stage: Configuration whose segmentation is a further input (cascade).
        transfer: How weights that come from another model are trained on.
        crop: Look only around what the previous stage found (fine stage); None: everywhere.
        start: Model that trainings start from; None: random weights.
        borrows: Whether the plan's auxiliary data set takes part, where there is one.
    """

    later: ClassVar[frozenset[str]] = frozenset(
        {"memory_bfloat16_gib", "transfer", "crop", "start", "borrows"}
    )

    name: ConfigurationName
    preprocessing: Preprocessing
    median_shape: Triple
    patch: tuple[int, ...]
    batch: int
    memory_gib: float
    memory_bfloat16_gib: float | None = None
    network: Network
    loss: Loss
    augmentation: Augmentation
    optimization: Optimization
    inference: Inference
    previous_stage: ConfigurationName | None = None
    transfer: Transfer = FineTune()
    crop: Crop | None = None
    start: Start | None = None
    borrows: bool = True

    @property
    def without_estimates(self) -> Configuration:
        """The same decisions without what is estimated of them, which changes no training."""
        return self.model_copy(update={"memory_gib": 0.0, "memory_bfloat16_gib": None})

    @property
    def context(self) -> int:
        """Slices at either end of the patch that the network sees but does not segment."""
        return self.network.slices // 2 if isinstance(self.network, ContextUNet) else 0


class Plan(Record):
    """All decisions about one dataset; editable by hand.

    Attributes:
        configurations: All that can be trained.
        proposed: Those worth training, the one to train first in front; empty means all.
        crf: What `select` tunes a dense CRF over; None: it tries none.
        tubular: Labels that consist of tubes: their center lines are judged, and no component of
            them is ever removed.
        shapes: Which labels' predicted shapes get a quality score, and how shape models are made.
        auxiliary: A second data set that configurations of one stage are trained on as well.
        init: The model that the plan was made to fit, whatever was found of it.
        nominated: What a race is to try: losses and hidden parts that the shapes in the data
            suggest, a model to start from, a second data set.
        decisions: Why.
    """

    schema_version: Literal[1] = 1
    planner: str
    planner_version: str
    dataset: str
    channels: tuple[str, ...]
    labels: tuple[Label, ...]
    regions: tuple[Region, ...] = ()
    ignore: int | None = None
    budget: Budget
    configurations: tuple[Configuration, ...]
    proposed: tuple[ConfigurationName, ...] = ()
    crf: CrfGrid | None = None
    tubular: tuple[str, ...] = ()
    auxiliary: Auxiliary | None = None
    init: Start | None = None
    nominated: tuple[Idea, ...] = ()
    shapes: ShapeOptions = ShapeOptions()
    decisions: tuple[Decision, ...]

    @property
    def targets(self) -> Targets:
        """What is to be segmented."""
        return Targets(labels=self.labels, regions=self.regions, ignore=self.ignore)

    def with_configuration(self, changed: Configuration) -> Plan:
        """Return the plan with a configuration in place of the one of the same name."""
        items = (changed if item.name == changed.name else item for item in self.configurations)
        return self.model_copy(update={"configurations": tuple(items)})

    def superseded_by(self, decision: Decision) -> Plan:
        """Return the plan with a decision in place of those on the same value or on parts of it.

        The decision says which these were. Decisions on a value that it changes a part of stay,
        and say so, each part once.
        """
        subject = decision.subject
        whole = {f"configurations.{item.name}" for item in self.configurations}
        kept, gone = [], []
        for former in self.decisions:
            if f"{former.subject}.".startswith(f"{subject}."):
                gone.append(f"{former.value} (rule {former.rule})")
                continue
            if subject.startswith(f"{former.subject}.") and former.subject not in whole:
                part = subject.removeprefix(f"{former.subject}.")
                stale = rf"; but {re.escape(part)}(\.[^:]*)?: see rule [^;]*"
                because = f"{re.sub(stale, '', former.because)}; but {part}: see rule "
                former = former.model_copy(update={"because": because + decision.rule})
            kept.append(former)
        if gone:
            because = f"{decision.because}, in place of {'; '.join(gone)}"
            decision = decision.model_copy(update={"because": because})
        return self.model_copy(update={"decisions": (*kept, decision)})

    def shape_labels(self, configuration: Configuration) -> tuple[str, ...]:
        """Return the labels that a configuration needs shape models of, in their order."""
        if len(configuration.patch) != 3 or configuration.context:
            return ()
        wanted = {
            name
            for term in configuration.loss.terms
            if isinstance(term, ShapeCodeTerm)
            for name in term.labels
        }
        return tuple(n for n in self.targets.names if n in wanted | set(self.shapes.labels))

    def borrowed(self, configuration: Configuration) -> Auxiliary | None:
        """Return the second data set that a configuration is trained on too; None without one.

        A second stage has no segmentations of the auxiliary cases by a network that has not seen
        them.
        """
        takes_part = configuration.borrows and configuration.previous_stage is None
        return self.auxiliary if takes_part else None

    def input_channels(self, configuration: Configuration) -> int:
        """Return a network's input channels: the image's, in a cascade also one a label."""
        cascade = configuration.previous_stage is not None
        return len(self.channels) + (len(self.labels) if cascade else 0)
