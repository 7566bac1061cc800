"""Networks on a CPU through OpenVINO: compiled in memory, checked against torch, else torch.

A network is compiled for the batches of windows that it gets. What a program makes of its first
batch is compared with what torch makes of it, and again of the first batch in which a channel is
not of one value (the corner of a CT is air); a network that differs, or that cannot be converted,
is computed by torch from there on, with a warning.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from selfseg.errors import DeviceError, SelfSegError
from selfseg.networks.device import is_out_of_memory
from selfseg.words import counted

if TYPE_CHECKING:
    from types import ModuleType

    from selfseg.records.model import Engine

log = logging.getLogger(__name__)

# Largest difference of a probability from torch's. Both compute in float32 and come within 1e-5; a
# thousandth decides only where two labels all but tie, and what converts wrongly is far beyond it.
TOLERANCE = 1e-3

Program = Callable[[Tensor], Tensor]


@dataclass
class _Compiled:
    """A program, and the channels that were not of one value in what was compared with torch."""

    program: Program
    compared: set[int] = field(default_factory=set)


class DisparityError(Exception):
    """A compiled network gives other probabilities than torch."""


def check_engine(engine: Engine, device: torch.device, *, limited: bool) -> None:
    """Refuse an engine that cannot compute here, before anything is computed.

    Args:
        engine: What is to compute the networks.
        device: Where they are to compute.
        limited: Whether memory is limited.

    Raises:
        DeviceError: The device is no CPU, or memory is limited.
        SelfSegError: The package is not installed.
    """
    if engine == "torch":
        return
    if device.type != "cpu":
        raise DeviceError(
            f"--engine openvino: computes on CPUs only, but the device is {device}",
            remedy="Add --device cpu, or leave --engine out.",
        )
    if limited:
        raise DeviceError(
            "--engine openvino: what its compiled networks take is not counted, so that "
            "--max-memory could not be kept",
            remedy="Leave out --engine or --max-memory.",
        )
    try:
        load_openvino()
    except ImportError as error:
        raise SelfSegError(
            f"--engine openvino: its package cannot be used here ({error})",
            remedy="Install selfseg with its extra, '.[openvino]', or leave --engine out.",
        ) from error


def load_openvino() -> ModuleType:
    """Import OpenVINO without its telemetry; raises ImportError where it is not installed.

    With that package importing alone sends a message to its makers and leaves files in the user's
    home; without it OpenVINO has a stub in its place. Where something else imported OpenVINO
    before, that has happened.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    module: ModuleType = openvino
    return module


def computed_by(engine: Engine, network: nn.Module, *, name: str, regions: bool) -> nn.Module:
    """Return a network as an engine computes it; the arguments are those of `OpenVINONetwork`."""
    return network if engine == "torch" else OpenVINONetwork(network, name, regions=regions)


class OpenVINONetwork(nn.Module):
    """A network that OpenVINO computes; what holds its weights sees the network itself.

    Args:
        network: In eval mode on the CPU; gives a tuple whose first entry is (b, k, *spatial).
        name: What messages call it.
        regions: Whether its probabilities are those of regions (sigmoid), not labels (softmax).
    """

    def __init__(self, network: nn.Module, name: str, *, regions: bool) -> None:
        super().__init__()
        self.network = network
        self._name, self._regions = name, regions
        self._programs: dict[torch.Size, _Compiled] = {}
        self._most = 0  # windows in one call
        self._is_torch = False

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map (b, c, *spatial) to one tensor of float32 logits (b, k, *spatial)."""
        if not self._is_torch:
            try:
                return (self._compute(x),)
            except Exception as error:  # whatever a conversion may come to: torch can do it
                if is_out_of_memory(error):
                    raise
                self._leave(error)
        outputs: tuple[Tensor, ...] = self.network(x)
        return outputs

    def _compute(self, x: Tensor) -> Tensor:
        parts = [self._run(part) for part in torch.split(x, self._sizes(len(x)))]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _sizes(self, count: int) -> list[int]:
        """Return the windows of each call: as many as are compiled for, the rest one by one.

        So two programs serve batches of any size; only one that is twice as large is compiled anew.
        """
        if count >= 2 * self._most:
            self._most = count
            self._programs = {s: p for s, p in self._programs.items() if s[0] == 1}
        return [self._most] * (count // self._most) + [1] * (count % self._most)

    def _run(self, x: Tensor) -> Tensor:
        known = self._programs.get(x.shape)
        textured = {c for c in range(x.shape[1]) if x[:, c].amin() != x[:, c].amax()}
        if known is not None and textured <= known.compared:
            return known.program(x)
        with torch.autocast("cpu", enabled=False):  # float32 is compared with float32
            known = known or _Compiled(compile_network(self.network, x))
            logits = known.program(x)
            self._compare(logits, self.network(x)[0], x.shape)
        known.compared |= textured
        self._programs[x.shape] = known
        return logits

    def _compare(self, ours: Tensor, theirs: Tensor, shape: torch.Size) -> None:
        """Say how far logits are from torch's; raise DisparityError beyond the tolerance."""
        difference = largest_difference(ours, theirs, regions=self._regions)
        if not difference <= TOLERANCE:  # NaN neither
            raise DisparityError(
                f"a probability differs from torch's by {difference:.2g} in windows of "
                f"{_sizes_text(shape)}; at most {TOLERANCE:g} is allowed"
            )
        log.info(
            "%s: computed by OpenVINO, %s in a call; compared ones differ from torch's by "
            "at most %.1e in a probability",
            self._name, counted(shape[0], "window"), difference,
        )  # fmt: skip

    def _leave(self, error: Exception) -> None:
        """Let torch compute from here on, and say why."""
        self._programs.clear()
        self._is_torch = True
        reason = str(error).strip() or error.__class__.__name__
        log.warning("%s: OpenVINO is not used, torch computes instead: %s", self._name, reason)


def compile_network(network: nn.Module, x: Tensor) -> Program:
    """Compile a network for the shape of a batch; float32, as many threads as torch has.

    Args:
        network: In eval mode on the CPU; gives a tuple whose first entry is (b, k, *spatial).
        x: The batch (b, c, *spatial), float32.

    Returns:
        Maps a batch of that shape to float32 logits (b, k, *spatial). Of the network's tuple it
        gives the first entry.
    """
    openvino = load_openvino()
    with _undisturbed():
        traced = torch.jit.trace(network, x, check_trace=False)  # type: ignore[no-untyped-call]
        graph = openvino.convert_model(traced, input=[tuple(x.shape)])
    compiled = openvino.Core().compile_model(
        graph,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            # Threads of torch and of image files share the cores; a pinned one could not move.
            "ENABLE_CPU_PINNING": False,
            "ENABLE_HYPER_THREADING": True,  # else fewer threads than were asked for
        },
    )

    def program(batch: Tensor) -> Tensor:
        return torch.from_numpy(compiled([batch.contiguous().numpy()], share_inputs=True)[0])

    return program


def largest_difference(ours: Tensor, theirs: Tensor, *, regions: bool) -> float:
    """Return the largest difference of two tensors of logits (b, k, *spatial) as probabilities."""
    first, second = (
        logits.float().sigmoid() if regions else logits.float().softmax(dim=1)
        for logits in (ours, theirs)
    )
    return float((first - second).abs().max())


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep logging and warnings as they are.

    A conversion that fails leaves a root logger that passes errors only. A trace warns that sizes
    become constants, as they are meant to, and that torch has a newer way, which loads a compiler.
    """
    root = logging.getLogger()
    level, filters, handlers = root.level, root.filters[:], root.handlers[:]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)
        root.filters[:], root.handlers[:] = filters, handlers


def _sizes_text(shape: torch.Size) -> str:
    return "×".join(map(str, shape))
