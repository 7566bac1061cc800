"""The exception tree: every mistake a user can make ends in one of these.

SelfSegError
├── DatasetError     a dataset folder, its files or its description (carries all complaints)
├── GeometryError    images that do not lie on the same grid
├── RecordError      a JSON file of ours that cannot be read
├── PlanError        a plan that cannot be made, edited or executed
├── PlannerError     a planner that is missing, doubled or broken
├── CheckpointError  training state that cannot be resumed
├── ModelError       a model that is missing, incomplete or ambiguous
├── ImageError       an image file that cannot be read or written
├── DivergenceError  a training whose loss is no longer a number
├── RefusedShapeError  a loss term whose shape models are all too bad
└── DeviceError      a device or a worker process that failed
"""

from __future__ import annotations

from collections.abc import Sequence


class SelfSegError(Exception):
    """A failure that the user can mend: says where, what was found, and what to do.

    Args:
        message: Where and what, in one sentence.
        remedy: What to do about it, in one sentence.
    """

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  → {self.remedy}" if self.remedy else self.message

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the remedy when the error crosses a process border."""
        return (_rebuild, (type(self), self.__dict__.copy()))


class DatasetError(SelfSegError):
    """All complaints about one dataset at once.

    Args:
        message: What was checked.
        complaints: One line each: file, finding, remedy.
        remedy: What to do about them all.
    """

    def __init__(self, message: str, *, complaints: Sequence[str] = (), remedy: str = "") -> None:
        lines = "".join(f"\n  • {complaint}" for complaint in complaints)
        super().__init__(message + lines, remedy=remedy)
        self.complaints = tuple(complaints)


class GeometryError(SelfSegError):
    """Images that should share one grid do not."""


class RecordError(SelfSegError):
    """A JSON file does not hold the record it should."""


class PlanError(SelfSegError):
    """A plan cannot be made, edited or executed."""


class NoPlanError(PlanError):
    """A dataset was not planned yet."""


class PlannerError(SelfSegError):
    """A planner is missing, registered twice or broken."""


class CheckpointError(SelfSegError):
    """A training state cannot be resumed."""


class ModelError(SelfSegError):
    """A trained model is missing, incomplete or ambiguous."""


class ImageError(SelfSegError):
    """An image file cannot be read or written."""


class DivergenceError(SelfSegError):
    """The loss of a training is no longer a number.

    Args:
        message: Which training.
        step: After which step.
        remedy: What to do about it.
    """

    def __init__(self, message: str, *, step: int, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.step = step


class RefusedShapeError(SelfSegError):
    """None of the shape models that a term of the loss needs is good enough to be used."""


class DeviceError(SelfSegError):
    """A device or a worker process failed."""


def _rebuild(kind: type[SelfSegError], state: dict[str, object]) -> SelfSegError:
    error = kind.__new__(kind)
    Exception.__init__(error, state.get("message", ""))
    error.__dict__.update(state)
    return error
