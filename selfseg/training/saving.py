"""When a training keeps its state: often enough to lose little, seldom enough to cost little."""

from __future__ import annotations

import time

from selfseg.training.checkpoints import save_checkpoint
from selfseg.training.job import Course, TrainingJob
from selfseg.training.state import TrainState

CHECKPOINT_EVERY_S = 60.0
# Writing 800 MiB through to a disk takes seconds, in which the device has nothing to do.
LARGEST_SHARE = 0.05


class Saver:
    """Writes checkpoints of a run, and tells when the next one is due.

    That is a minute after the last one, or later where writing takes long: at most a twentieth of
    the time goes into it.

    Args:
        job, course: Of the run, which begins now.
    """

    def __init__(self, job: TrainingJob, course: Course) -> None:
        self._job, self._course = job, course
        self._saved_s = time.perf_counter()
        self._took_s = 0.0

    def is_due(self) -> bool:
        """Tell whether the state is to be kept now."""
        wait_s = max(CHECKPOINT_EVERY_S, self._took_s / LARGEST_SHARE)
        return time.perf_counter() - self._saved_s > wait_s

    def save(self, state: TrainState) -> None:
        """Replace the checkpoint; a kill at any moment leaves the former or the new one."""
        began_s = time.perf_counter()
        save_checkpoint(state, self._job, self._course)
        self._saved_s = time.perf_counter()
        self._took_s = self._saved_s - began_s
