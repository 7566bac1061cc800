"""Read nnU-Net's pickled checkpoints and write safetensors and JSON: a program of its own.

This is the only file of the project that loads a pickle. It runs in a process that may neither open
connections nor start programs, with torch's restricted reader: that one builds tensors, plain
containers and what stands in `allowed_globals`, and calls nothing else.

`checkpoint.py` starts `main` with CHECKPOINT OUTPUT [CHECKPOINT OUTPUT …]; every OUTPUT is a folder
that gets `tensors.safetensors` and `facts.json`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selfseg.io.nnunet.facts import EXIT_REFUSED, FACTS, TENSORS, CheckpointFacts
from selfseg.networks.weights import save_weights
from selfseg.records import serial

# What a reader of tensors has no business with; names of Python's audit events.
FORBIDDEN = ("socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.system", "pty.")
NUMBERS = ("float64", "float32", "float16", "int64", "int32", "uint8", "bool")
# All weights in float32, each as often as it has names: nnU-Net lists most of them four times.
LARGEST_GIB = 16.0
WRAPPERS = ("module.", "_orig_mod.")  # what parallel and compiled networks put before names


class RefusedError(Exception):
    """What is wrong with a checkpoint."""


def seal(event: str, _: tuple[object, ...]) -> None:
    """Refuse connections and programs, as an audit hook: it cannot be taken off again."""
    if event.startswith(FORBIDDEN):
        raise PermissionError(f"{event} is not for a reader of checkpoints")


def allowed_globals() -> list[Any]:
    """Return what a pickle may name besides tensors and containers: numpy's plain numbers."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(name)) for name in NUMBERS]
    # numpy 2 has moved the module; checkpoints have either name.
    names = [f"numpy.{part}.multiarray.scalar" for part in ("core", "_core")]
    return [*((scalar, name) for name in names), np.dtype, *kinds]


def read(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint.

    Raises:
        RefusedError: It names anything but tensors, containers and plain numbers, or is damaged.
    """
    try:
        with torch.serialization.safe_globals(allowed_globals()):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a hostile or damaged file may fail in any way
        raise RefusedError(
            f"is damaged, or holds what is neither tensor nor plain value ({_reason(error)})"
        ) from error
    if not isinstance(content, dict):
        raise RefusedError(f"holds a {type(content).__name__}, not a dictionary")
    return content


def tensors_of(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights in float32 by name, without what wrappers put before the names."""
    weights = content.get("network_weights")
    if not isinstance(weights, dict) or not weights:
        raise RefusedError("has no 'network_weights'")
    found: dict[str, Tensor] = {}
    room = LARGEST_GIB * 2**30
    for key, value in weights.items():
        name = str(key)
        for wrapper in WRAPPERS:
            name = name.removeprefix(wrapper)
        if not isinstance(value, Tensor) or value.layout != torch.strided:
            raise RefusedError(f"network_weights[{name!r}] is no dense tensor")
        if value.is_complex():
            raise RefusedError(f"network_weights[{name!r}] has complex numbers")
        if name in found:
            raise RefusedError(f"has two network_weights of the name {name!r}")
        room -= 4 * value.numel()
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise RefusedError(f"network_weights[{name!r}] is larger than what is stored of it")
        if room < 0:
            raise RefusedError(f"has more than {LARGEST_GIB:g} GiB of weights")
        found[name] = value.detach().clone().to(torch.float32)
        if not bool(found[name].isfinite().all()):
            raise RefusedError(f"network_weights[{name!r}] has values that are no finite numbers")
    return found


def facts_of(content: Mapping[str, Any]) -> CheckpointFacts:
    """Return what a checkpoint says of its training.

    Raises:
        RefusedError: It does not say it as nnU-Net does.
    """
    arguments = content.get("init_args")
    if not isinstance(arguments, dict) or not isinstance(arguments.get("configuration"), str):
        raise RefusedError("has no 'init_args' with a configuration; was it made by nnU-Net v2?")
    axes = content.get("inference_allowed_mirroring_axes")
    if axes is None:
        axes = ()
    if not isinstance(axes, tuple | list):
        raise RefusedError(f"has {_shown(axes)} as 'inference_allowed_mirroring_axes', no axes")
    return CheckpointFacts(
        trainer=_name(content.get("trainer_name", ""), "trainer_name"),
        configuration=arguments["configuration"],
        fold=_name(arguments.get("fold", ""), "fold"),
        epochs=_count(content.get("current_epoch", 0), "current_epoch"),
        mirror_axes=tuple(_count(axis, "inference_allowed_mirroring_axes", 2) for axis in axes),
    )


def _name(value: object, key: str) -> str:
    if not isinstance(value, str | int):
        raise RefusedError(f"has {_shown(value)} as {key!r}, no name")
    return str(value)


def _count(value: object, key: str, largest: int = sys.maxsize) -> int:
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        count = int(value)
        if 0 <= count <= largest:
            return count
    raise RefusedError(f"has {_shown(value)} in {key!r}, no whole number that can stand there")


def _shown(value: object) -> str:
    return repr(value)[:40] if isinstance(value, str | int | float) else f"a {type(value).__name__}"


def convert(source: Path, output: Path) -> None:
    """Write a checkpoint's tensors and facts into a folder."""
    content = read(source)
    facts, tensors = facts_of(content), tensors_of(content)
    save_weights(tensors, output / TENSORS)
    serial.save(facts, output / FACTS)


def main(arguments: list[str]) -> int:
    """Convert pairs of checkpoint and output folder; say on stderr what is refused."""
    torch.set_num_threads(1)
    sys.addaudithook(seal)
    for source, output in zip(arguments[::2], arguments[1::2], strict=True):
        try:
            convert(Path(source), Path(output))
        except RefusedError as refusal:
            sys.stderr.write(f"{source}: {refusal}\n")
            return EXIT_REFUSED
    return 0


def _reason(error: BaseException) -> str:
    """Return the line of torch's long message that names the finding."""
    lines = [line.strip() for line in str(error).splitlines()]
    marked = [line for line in lines if line.startswith(("Unsupported", "Can only", "Trying"))]
    named = [line for line in lines if "WeightsUnpickler error:" in line]
    text = (marked or named or lines or [""])[0]
    found = text.rpartition("WeightsUnpickler error:")[2].partition("Please use")[0]
    return found.strip()[:200]  # without torch's advice to allow what it refused
