"""Which folds go into an exported model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selfseg.errors import ModelError
from selfseg.inference.find import find_models
from selfseg.inference.model import default_folds
from selfseg.inference.trained import changed_members, trained_folds
from selfseg.records import serial
from selfseg.records.plan import Plan
from selfseg.records.selection import Selection
from selfseg.workspace.dataset import DatasetFolder


@dataclass(frozen=True)
class Chosen:
    """Folds by configuration, the selection if it can be used with them, and why these."""

    folds: dict[str, tuple[str, ...]]
    selection: Selection | None
    because: str


def choose_folds(
    dataset: DatasetFolder, configurations: Sequence[str] | None, folds: Sequence[str] | None
) -> Chosen:
    """Return what is asked for, else what was selected, else all that is trained.

    Previous stages of cascades come along, with all folds that prediction averages.

    Raises:
        ModelError: It is not trained; the message lists what is.
    """
    plan = serial.load(Plan, dataset.plan)
    selection, problem = _selection(dataset, plan)
    chosen: dict[str, tuple[str, ...]] = {}
    if configurations or folds:
        chosen |= _asked(dataset, configurations, folds)
        because = "asked for"
    elif selection is not None:
        chosen |= {member.configuration: member.folds for member in selection.members}
        because = f"{dataset.selection.name} names these"
    else:
        chosen |= {item.configuration.name: item.folds for item in find_models(dataset.path)}
        because = f"all that is trained: {problem}"
    _add_previous_stages(dataset, plan, chosen)
    if selection is not None and not _has_members(chosen, selection):
        selection = None
        because += "; the selection, which needs others, stays behind"
    return Chosen(chosen, selection, because)


def _selection(dataset: DatasetFolder, plan: Plan) -> tuple[Selection | None, str]:
    """Return the selection that prediction would use, or why there is none."""
    if not dataset.selection.is_file():
        return None, "there is no selection"
    selection = serial.load(Selection, dataset.selection)
    if changed := changed_members(dataset, plan, selection):
        return None, f"weights have changed since the selection ({', '.join(changed)})"
    return selection, ""


def _asked(
    dataset: DatasetFolder, configurations: Sequence[str] | None, folds: Sequence[str] | None
) -> dict[str, tuple[str, ...]]:
    trained: dict[str, tuple[str, ...]] = {
        item.configuration.name: item.folds for item in find_models(dataset.path)
    }
    chosen = {
        name: tuple(dict.fromkeys(folds)) if folds else trained.get(name, ())
        for name in dict.fromkeys(configurations or trained)
    }
    missing = [
        f"{name} fold {fold}" if fold else name
        for name, wanted in chosen.items()
        for fold in wanted or ("",)
        if fold not in trained.get(name, ())
    ]
    if missing:
        listing = "; ".join(f"{name}: {', '.join(there)}" for name, there in trained.items())
        raise ModelError(
            f"{dataset.path}: {', '.join(missing)} not trained; trained there: {listing}",
            remedy="Choose of these with --config and --folds.",
        )
    return chosen


def _add_previous_stages(
    dataset: DatasetFolder, plan: Plan, chosen: dict[str, tuple[str, ...]]
) -> None:
    for configuration in plan.configurations:
        stage = configuration.previous_stage
        if stage is not None and configuration.name in chosen:
            needed = default_folds(trained_folds(dataset, stage))
            if not needed:
                raise ModelError(
                    f"{dataset.path}: {configuration.name} needs {stage}, which is not trained",
                    remedy=f"Run 'selfseg train {plan.dataset} {stage} FOLD' first.",
                )
            chosen[stage] = tuple(dict.fromkeys((*chosen.get(stage, ()), *needed)))


def _has_members(chosen: dict[str, tuple[str, ...]], selection: Selection) -> bool:
    return all(
        set(member.folds) <= set(chosen.get(member.configuration, ()))
        for member in selection.members
    )
