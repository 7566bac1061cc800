"""Which device computes: the one asked for, or the best there is; whether its memory ran out."""

from __future__ import annotations

import logging

import torch

from selfseg.errors import DeviceError
from selfseg.execution.resources import usable_cores

log = logging.getLogger(__name__)

ALLOCATION_FAILED = (
    "can't allocate memory",
    "not enough memory",  # on Windows
    "CUDA error: out of memory",  # what torch's allocator did not ask for
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "ALLOCATION_FAILED",  # cuDNN 9: HOST_… and DEVICE_…
    # What cuDNN comes to when no algorithm's workspace fits; so too where it knows none at all,
    # hence messages keep the text.
    "unable to find an engine to execute this computation",
)


def select_device(option: str) -> torch.device:
    """Return the device for `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        DeviceError: No such device here.
    """
    if option == "auto":
        return _prepared(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        device = torch.device(option)
    except RuntimeError as error:
        raise DeviceError(
            f"--device {option}: no such device", remedy="Write auto, cpu, cuda or cuda:0."
        ) from error
    if device.type not in ("cpu", "cuda"):
        raise DeviceError(
            f"--device {option}: not supported", remedy="Write auto, cpu, cuda or cuda:0."
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"--device {option}: torch {torch.__version__} sees {torch.cuda.device_count()} "
            "CUDA devices",
            remedy="Use --device cpu, or install a torch build with CUDA and a driver that fits.",
        )
    return _prepared(device)


def wait_for(device: torch.device) -> None:
    """Wait until a CUDA device has done all it was given, for measuring its time."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory of a device or of the machine ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # The CPU allocator of torch and the CUDA libraries raise a plain RuntimeError.
    return isinstance(error, RuntimeError) and any(text in str(error) for text in ALLOCATION_FAILED)


def in_short(error: BaseException) -> str:
    """Return the first sentence of an error, on one line; its type where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0].rstrip(".")


def _prepared(device: torch.device) -> torch.device:
    """Make a CUDA device the current one, and let cuDNN choose by measuring: shapes recur.

    The device has its index, as those of tensors do: `cuda` would not be equal to `cuda:0`. Threads
    are no more than the cores of a container, whose quota torch does not know.
    """
    if torch.get_num_threads() > (cores := usable_cores()):
        torch.set_num_threads(cores)
    if device.type != "cuda":
        return device
    if device.index is not None:
        torch.cuda.set_device(device)
    torch.backends.cudnn.benchmark = True
    return torch.device("cuda", torch.cuda.current_device())
