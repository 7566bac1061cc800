"""The device that computes: what its errors mean, which index it has, how many threads it gets."""

from __future__ import annotations

import pytest
import torch

from selfseg.networks import device as devices
from selfseg.networks.device import in_short, is_out_of_memory, select_device


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB."),
        MemoryError(),
        torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be …"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("FIND was unable to find an engine to execute this computation after …"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=str,
)
def test_exhausted_memory_is_recognised_however_it_is_reported(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        ValueError("CUDA error: out of memory"),
    ],
    ids=str,
)
def test_other_errors_are_not_taken_for_it(error: Exception) -> None:
    assert not is_out_of_memory(error)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("out of memory. Tried to allocate 9.5 GiB. GPU 0 has"), "out of memory"),
        (RuntimeError("CUDA error: out of memory\nFor debugging"), "CUDA error: out of memory"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_an_error_in_short_is_one_sentence(error: Exception, expected: str) -> None:
    assert in_short(error) == expected


@pytest.mark.parametrize(("option", "index"), [("auto", 1), ("cuda", 1), ("cuda:0", 0)])
def test_a_cuda_device_is_called_as_its_tensors_call_it(
    monkeypatch: pytest.MonkeyPatch, option: str, index: int
) -> None:
    """`cuda` and `cuda:1` are not equal, and would be taken for two devices."""
    current = [1]
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[0])
    monkeypatch.setattr(torch.cuda, "set_device", lambda it: current.__setitem__(0, it.index))
    assert select_device(option) == torch.device("cuda", index)


@pytest.mark.parametrize(("threads", "cores", "expected"), [(64, 4, [4]), (4, 4, []), (2, 8, [])])
def test_threads_keep_to_the_quota_of_a_container(
    monkeypatch: pytest.MonkeyPatch, threads: int, cores: int, expected: list[int]
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setattr(devices, "usable_cores", lambda: cores)
    assert select_device("cpu") == torch.device("cpu")
    assert asked == expected
