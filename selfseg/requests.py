"""What each command is asked for, and how durations, tolerances and metrics are written."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from selfseg.errors import SelfSegError
from selfseg.records.metrics import MetricName
from selfseg.records.model import Engine
from selfseg.records.selection import SelectionMetric
from selfseg.workspace.lookup import model_folder

if TYPE_CHECKING:
    from selfseg.evaluation.evaluate import Tolerances
    from selfseg.evaluation.further import Further

PART = r"(\d+(?:\.\d+)?)\s*(h|min|m|s)"
DURATION = re.compile(rf"(?:{PART}\s*)+")
SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class StartRequest:
    """Which model to start from: a folder, and what of it where there is more than one.

    Attributes:
        folder: A data set's folder in a workspace, or any with plan.json and models/.
        configuration: None: the one of the same name, or the only one.
        fold: None: the one trained on all cases, else that of the same number, else the first.
    """

    folder: Path
    configuration: str | None = None
    fold: str | None = None


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """Options of `plan`; `cases` is a file with one case id a line.

    `auxiliary` is a second data set, by folder or name, that training borrows from.
    """

    planner: str = "default"
    memory: str | None = None
    device: str = "auto"
    cases: Path | None = None
    settings: tuple[str, ...] = ()
    start: StartRequest | None = None
    auxiliary: str | None = None
    preprocess: bool = True
    workers: int | None = None


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """Options of `run`; `cases` is a file with one case id a line; the rest is as in `plan`."""

    time_s: float | None = None
    planner: str = "default"
    memory: str | None = None
    cases: Path | None = None
    start: StartRequest | None = None
    auxiliary: str | None = None
    device: str = "auto"
    workers: int | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """Options of `train`."""

    configuration: str
    fold: str
    epochs: int | None = None
    steps_per_epoch: int | None = None
    time_s: float | None = None
    restart: bool = False
    start: StartRequest | None = None
    device: str = "auto"
    workers: int | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class PredictRequest:
    """Options of `predict`; `model` is a model folder or file, a dataset folder or a workspace.

    `resume` keeps finished cases. `part`, such as `2/8`, chooses every eighth case from the second.
    """

    source: Path
    output: Path
    model: Path
    configuration: str | None = None
    folds: tuple[str, ...] | None = None
    tta: bool | None = None
    probabilities: bool = False
    resume: bool = False
    part: str | None = None
    max_memory: str | None = None
    step: float | None = None
    engine: Engine = "torch"
    device: str = "auto"
    workers: int | None = None


@dataclass(frozen=True, kw_only=True)
class SelectRequest:
    """Options of `select`; the tolerance is that of the surface Dice."""

    metric: SelectionMetric = "dice"
    tolerance_mm: float = 1.0
    device: str = "auto"
    workers: int | None = None


@dataclass(frozen=True, kw_only=True)
class RaceRequest:
    """Options of `race`; None: the first proposed configuration, untried ideas, all folds."""

    configuration: str | None = None
    ideas: tuple[str, ...] | None = None
    folds: tuple[str, ...] | None = None
    time_s: float | None = None
    device: str = "auto"
    workers: int | None = None
    seed: int = 0


def start_request(
    root: Path, model: Path | None, configuration: str | None, fold: str | None
) -> StartRequest | None:
    """Return which model to start from; None without one.

    Args:
        root: Workspace, in which a bare name means a data set.
        model: Folder or name, as given.
        configuration: As given.
        fold: As given.

    Raises:
        SelfSegError: A configuration or fold is given, but no model.
    """
    if model is not None:
        return StartRequest(model_folder(root, model), configuration, fold)
    if configuration is not None or fold is not None:
        raise SelfSegError(
            "--init-config and --init-fold choose from a model, but there is none",
            remedy="Give it with --init MODEL.",
        )
    return None


def parse_duration_s(text: str) -> float:
    """Return seconds for `90s`, `15m`, `1h30m` (a bare number is seconds)."""
    written = text.strip().lower()
    if re.fullmatch(r"\d+(\.\d+)?", written):
        written += "s"
    parts = re.findall(PART, written) if DURATION.fullmatch(written) else []
    seconds = sum(float(number) * SECONDS[unit] for number, unit in parts)
    if seconds <= 0:
        raise SelfSegError(f"--time {text}: not a duration", remedy="Write 90s, 15m or 1h30m.")
    return seconds


def parse_part(text: str) -> slice:
    """Return which items of a sequence are the part `2/8`: every eighth, from the second.

    Raises:
        SelfSegError: It is not a number and how many there are.
    """
    match = re.fullmatch(r"([0-9]+)/([0-9]+)", text.strip())
    number, parts = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= parts:
        raise SelfSegError(
            f"--part {text}: not a part", remedy="Write 1/8 for the first of eight, up to 8/8."
        )
    return slice(number - 1, None, parts)


def read_case_list(path: Path | None) -> tuple[str, ...] | None:
    """Return the case ids of a file with one a line; None without a file."""
    if path is None:
        return None
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SelfSegError(
            f"{path}: cannot be read ({error})", remedy="Give a text file with one case id a line."
        ) from error
    ids = tuple(name for line in lines if (name := line.strip()))
    if not ids:
        raise SelfSegError(f"{path}: names no case", remedy="Write one case id a line.")
    return ids


def parse_tolerances(settings: Sequence[str]) -> Tolerances:
    """Return the tolerance of all labels (`MM`) and of single ones (`LABEL=MM`)."""
    from selfseg.evaluation.evaluate import Tolerances

    general, by_label = Tolerances().general_mm, {}
    for setting in settings:
        name, _, number = setting.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not 0 <= value < math.inf:
            raise SelfSegError(
                f"--tolerance {setting}: not a number of mm", remedy="Write 1.5 or LABEL=1.5."
            )
        if name:
            by_label[name] = value
        else:
            general = value
    return Tolerances(general, by_label)


def parse_metrics(names: str, field_of_view: Path | None) -> Further:
    """Return the families of metrics of `NAME,NAME`, and where the masks of scoring lie."""
    from selfseg.evaluation.further import Further

    known: dict[str, MetricName] = {name: name for name in get_args(MetricName)}
    given = [name.strip() for name in names.split(",")]
    unknown = [name for name in given if name not in known]
    if unknown:
        raise SelfSegError(
            f"--metrics {names}: unknown: {', '.join(map(repr, unknown))}",
            remedy=f"Choose from {', '.join(known)}, joined by commas.",
        )
    return Further(tuple(known[name] for name in given), field_of_view)
