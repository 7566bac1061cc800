"""The warning of slow convolutions: when it comes, and what it says."""

from __future__ import annotations

import logging

import pytest
import torch

from selfseg.networks import convolution_check as check

CUDA = torch.device("cuda")


def _seconds(reduced: float):  # type: ignore[no-untyped-def]
    return lambda device, dtype: 1.0 if dtype is None else reduced


@pytest.mark.parametrize(("reduced", "warned"), [(0.5, False), (1.4, False), (4.0, True)])
def test_only_a_clearly_slower_format_is_warned_of(
    reduced: float, warned: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(check, "seconds_of_convolution", _seconds(reduced))
    with caplog.at_level(logging.WARNING):
        check.warn_of_slow_convolutions(CUDA, torch.bfloat16)
    assert bool(caplog.records) is warned


@pytest.mark.parametrize(("device", "dtype"), [(torch.device("cpu"), torch.bfloat16), (CUDA, None)])
def test_where_nothing_is_reduced_on_cuda_nothing_is_measured(
    device: torch.device, dtype: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[torch.dtype | None] = []

    def watched(_: torch.device, dtype: torch.dtype | None) -> float:
        measured.append(dtype)
        return 1.0

    monkeypatch.setattr(check, "seconds_of_convolution", watched)
    check.warn_of_slow_convolutions(device, dtype)
    assert measured == []
    check.warn_of_slow_convolutions(CUDA, torch.bfloat16)
    assert measured  # where it is


@pytest.mark.parametrize(
    ("number", "named"), [(91002, "cuDNN 9.10.2"), (8902, "cuDNN 8.9.2"), (None, "no cuDNN")]
)
def test_the_warning_names_both_versions(number: int | None, named: str) -> None:
    text = check.describe(4.2, torch.bfloat16, "2.9.0", number)
    assert "4.2 times" in text
    assert "torch 2.9.0" in text
    assert named in text


def test_what_cannot_be_timed_ends_no_training(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(device: torch.device, dtype: torch.dtype | None) -> float:
        raise RuntimeError("GET was unable to find an engine to execute this computation")

    monkeypatch.setattr(check, "seconds_of_convolution", broken)
    with caplog.at_level(logging.WARNING):
        check.warn_of_slow_convolutions(CUDA, torch.bfloat16)
    assert not caplog.records


def test_a_convolution_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "SIDE", 8)
    assert 0 < check.seconds_of_convolution(torch.device("cpu"), None) < 60
    assert 0 < check.seconds_of_convolution(torch.device("cpu"), torch.bfloat16) < 60
