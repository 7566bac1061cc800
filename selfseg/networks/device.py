"""Which device computes: the one asked for, or the best there is."""

from __future__ import annotations

import logging

import torch

from selfseg.errors import DeviceError

log = logging.getLogger(__name__)


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


def _prepared(device: torch.device) -> torch.device:
    """Make a CUDA device the current one, and let cuDNN choose by measuring: shapes recur."""
    if device.type == "cuda":
        if device.index is not None:
            torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
    return device
