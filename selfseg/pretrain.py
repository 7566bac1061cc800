"""`pretrain` as a function: unlabelled images made ready, a planned network trained on them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from selfseg.errors import PlanError
from selfseg.execution.locks import waited_for
from selfseg.execution.processes import default_workers
from selfseg.files import file_digest
from selfseg.folds import find_configuration, open_planned, training_device
from selfseg.planning import find_planner
from selfseg.records import serial
from selfseg.records.dataset import Case, Dataset
from selfseg.records.ideas import Idea
from selfseg.records.network import ContextUNet, TwoBranch
from selfseg.records.plan import Configuration, Decision, Plan
from selfseg.records.pretraining import MaskedReconstruction, Pretrained
from selfseg.records.transfer import Start
from selfseg.requests import StartRequest
from selfseg.starting import planned_as
from selfseg.workspace.dataset import DatasetFolder
from selfseg.workspace.lookup import planned_folder

if TYPE_CHECKING:
    from selfseg.inference.trained import PlannedDataset

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PretrainRequest:
    """Options of `pretrain`; without a configuration the first proposed one."""

    images: Path
    configuration: str | None = None
    steps: int | None = None
    time_s: float | None = None
    restart: bool = False
    device: str = "auto"
    workers: int | None = None
    seed: int = 0


@runtime_checkable
class Pretrainer(Protocol):
    """What a planner may offer as well: how networks are pretrained without labels."""

    def pretraining(self, configuration: Configuration) -> tuple[MaskedReconstruction, Decision]:
        """Decide how a network is pretrained."""
        ...

    def nominate_pretrained(self, made: Pretrained, start: Start) -> Idea | None:
        """Decide whether a race should try to start from a pretrained network."""
        ...


def find_pretrainer(name: str = "default") -> Pretrainer:
    """Return the rules of a planner; the default planner's if it has none."""
    planner = find_planner(name)
    if isinstance(planner, Pretrainer):
        return planner
    default = find_planner("default")
    assert isinstance(default, Pretrainer)
    return default


def pretrain_network(
    dataset: str, workspace: Path, request: PretrainRequest
) -> tuple[Pretrained, Idea | None]:
    """Pretrain the network of a planned configuration on images without labels.

    Returns what was made, and the idea to start from it, which is nominated in the plan; no idea
    where nothing was learned.

    Raises:
        PlanError: The configuration has no network that can be pretrained.
        DatasetError: The folder holds nothing that fits the channels.
        CheckpointError: See `selfseg.pretraining.train.pretrain`.
    """
    from selfseg.pretraining.job import PretrainingJob
    from selfseg.pretraining.train import pretrain

    known = open_planned(planned_folder(workspace, dataset), dataset)
    device = training_device(known.plan, request.device)
    configuration = _configuration(known.plan, request.configuration)
    pretrainer = find_pretrainer(known.plan.planner)
    options, decision = pretrainer.pretraining(configuration)
    log.info("Pretraining: %s, because %s", decision.value, decision.because)
    cases, arrays = _prepare(known, configuration, request)
    job = PretrainingJob(
        dataset=known.plan.dataset,
        channels=known.plan.channels,
        configuration=configuration,
        options=options,
        decision=decision,
        cases=tuple(case.id for case in cases),
        images=tuple(file.digest for case in cases for file in case.images),
        arrays=arrays,
        output=known.folder.pretrained(configuration.name),
        steps=request.steps,
        time_s=request.time_s,
        seed=request.seed,
        device=device,
        restart=request.restart,
    )
    made = pretrain(job)
    start = planned_as(StartRequest(job.output.path), configuration.name, known.folder.workspace)
    start = start.model_copy(update={"weights": (file_digest(job.output.weights),)})
    idea = pretrainer.nominate_pretrained(made, start)
    if idea is not None:
        _nominate(known.folder, idea)
    else:
        log.warning(
            "Nothing was learned: the error of masked voxels is %.4f, that of painting zeros %.4f. "
            "So no idea was nominated, and no training should start from this network. Pretrain "
            "for longer (--restart, with --steps or --time), or on more images",
            made.error,
            made.error_of_zeros,
        )
    return made, idea


def _nominate(folder: DatasetFolder, idea: Idea) -> None:
    """Write an idea to the plan that is there now, in place of one of the same name."""
    with waited_for(folder.plan_lock, "changes the plan"):
        plan = serial.load(Plan, folder.plan)
        nominated = with_idea(plan, idea)
        if nominated != plan:
            serial.save_keeping_former(nominated, folder.plan)


def with_idea(plan: Plan, idea: Idea) -> Plan:
    """Return a plan with an idea in front; the same idea keeps what races found of it.

    Where other weights stand in its place now, the former ones have proved nothing for them: a
    configuration that starts there, because they won, starts from random weights again.
    """
    ours = (idea.configuration, idea.name)
    former = [i for i in plan.nominated if (i.configuration, i.name) == ours]
    if [_untried(i, idea) for i in former] == [idea]:
        return plan
    others = tuple(i for i in plan.nominated if i not in former)
    plan = plan.model_copy(update={"nominated": (idea, *others)})
    item = find_configuration(plan, idea.configuration)
    if item.start is None or _place(item.start) != _place(idea.start):
        return plan
    log.warning(
        "%s starts from random weights again: no race has tried what is pretrained now", item.name
    )
    return plan.with_configuration(item.model_copy(update={"start": None}))


def _untried(former: Idea, now: Idea) -> Idea:
    """Return an idea as it was nominated; one of earlier versions does not name its weights."""
    start = former.start
    if start is not None and not start.weights and _place(start) == _place(now.start):
        start = now.start
    return former.model_copy(update={"trials": (), "start": start})


def _place(start: Start | None) -> Start | None:
    """Return a start, whatever its weights are."""
    return None if start is None else start.model_copy(update={"weights": ()})


def _configuration(plan: Plan, name: str | None) -> Configuration:
    first = next(iter(plan.proposed), plan.configurations[0].name)
    configuration = find_configuration(plan, name or first)
    if configuration.previous_stage is not None:
        reason = f"it needs the segmentations of {configuration.previous_stage}"
    elif isinstance(configuration.network, ContextUNet | TwoBranch):
        reason = f"a {configuration.network.kind} gives no image of the size of its patch"
    else:
        return configuration
    fitting = ", ".join(
        item.name
        for item in plan.configurations
        if item.previous_stage is None and not isinstance(item.network, ContextUNet | TwoBranch)
    )
    raise PlanError(
        f"{configuration.name} cannot be pretrained: {reason}",
        remedy=f"Choose with --config from: {fitting or 'none of this plan'}.",
    )


def _prepare(
    known: PlannedDataset, configuration: Configuration, request: PretrainRequest
) -> tuple[tuple[Case, ...], tuple[Path, ...]]:
    """Make the arrays of the images where they are missing; return cases and arrays."""
    from selfseg.io.companions import digest_image
    from selfseg.io.unlabeled import list_cases
    from selfseg.preprocessing.dataset import Arrays, CaseFiles, preprocess

    plan = known.plan
    cases = tuple(
        case.model_copy(
            update={
                "images": tuple(
                    file.model_copy(update={"digest": digest_image(Path(file.path))})
                    for file in case.images
                )
            }
        )
        for case in list_cases(request.images, len(plan.channels))
    )
    unlabelled = Dataset(
        name=plan.dataset,
        root=str(request.images.resolve()),
        layout="nnunet",
        channels=plan.channels,
        labels=plan.labels,
        cases=cases,
    )
    folder = known.folder.pretrained(configuration.name).arrays
    workers = default_workers(request.workers)
    options, patch = configuration.preprocessing, configuration.patch
    preprocess(unlabelled, [Arrays(folder, options, patch)], workers=workers)
    return cases, tuple(CaseFiles(folder, case.id).image for case in cases)
