"""`--max-memory` as a promise on the whole process: what it leaves, or why it is not enough."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import import_module

from selfseg.errors import DeviceError
from selfseg.execution.resources import Freed, handle_freed_memory, held_gib
from selfseg.inference.cascade import load_previous
from selfseg.inference.model import Ensemble, Model
from selfseg.inference.work import Needs, find_needs
from selfseg.records.dataset import Case

# What the program comes to hold after the first small window: further code of its libraries,
# threads and their stacks, Python's own objects of a case. Measured.
PROGRAM_GROWTH_GIB = 0.06


def room_gib(
    limit_gib: float, ensemble: Ensemble, cases: Sequence[Case], *, probabilities: bool = False
) -> float:
    """Return the room for weights, images, windows and logits that a limit leaves.

    From here on large arrays go back to the system when they are freed.

    Args:
        limit_gib: Most main memory that this process may hold.
        ensemble: What predicts; its weights are loaded.
        cases: What is predicted.
        probabilities: Whether they are written as well.

    Raises:
        DeviceError: Not even one image at a time with one window in a call fits.
        ModelError: A previous stage is not trained.
    """
    handle_freed_memory(Freed.RETURNED)
    _load_programs()
    needs = [find_needs(ensemble.members, cases, probabilities=probabilities)]
    further = 0.0  # weights of previous stages, of which one at a time is loaded
    for model in ensemble.members:
        if model.configuration.previous_stage is not None:
            gib, need = _previous(model, cases)
            further = max(further, gib)
            needs.append(need)
    most = max(needs, key=lambda need: need.least_gib)
    held = held_gib() + PROGRAM_GROWTH_GIB
    if held + further + most.least_gib > limit_gib:
        raise _too_little(limit_gib, held + further, most, ensemble)
    return limit_gib - held + ensemble.weights_gib


def _load_programs() -> None:
    """Import what prediction imports when it is needed, so that it counts."""
    for name in ("SimpleITK", "scipy.ndimage"):
        import_module(name)


def _previous(model: Model, cases: Sequence[Case]) -> tuple[float, Needs]:
    """Return the size of a previous stage's weights, and what it needs."""
    previous = load_previous(model)
    return previous.weights_gib, find_needs([previous], cases)


def _too_little(limit_gib: float, held_gib: float, needs: Needs, ensemble: Ensemble) -> DeviceError:
    window, image = needs.window / 2**30, needs.image / 2**30
    patches = {"×".join(map(str, m.configuration.patch)) for m in ensemble.members}
    least = math.ceil(100 * (held_gib + needs.least_gib)) / 100
    largest = f"; the largest image ({needs.case}) {image:.2f} GiB" if needs.case else ""
    return DeviceError(
        f"--max-memory: {limit_gib:.2f} GiB are too little: the program and its weights hold "
        f"{held_gib:.2f} GiB, a window ({', '.join(sorted(patches))}) takes {window:.2f} GiB"
        f"{largest}",
        remedy=f"Give at least --max-memory {least:.2f}GB, or predict large images elsewhere.",
    )
