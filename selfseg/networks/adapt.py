"""Change a kernel or head so that it fits another network, and keeps doing what it did."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from selfseg.records.channels import are_in_order, match_channels, same_case

PREVIOUS = "previous stage: "  # before the names of inputs that show a former segmentation


def fit_inputs(kernel: Tensor, source: Sequence[str], target: Sequence[str]) -> tuple[Tensor, str]:
    """Return a first kernel (out, in, *k) for other input channels, and how; '' if they are equal.

    A channel takes the filters of its counterpart (`match_channels`), or the mean of all, times the
    ratio of the numbers of channels: copies of one channel give what the one gave. Segmentations of
    a previous stage, which come last, start at 0 where the source has not seen them.
    """
    ours, theirs = same_case(source), same_case(target)
    if ours == theirs:
        return kernel, ""
    images, wanted = (sum(not n.startswith(PREVIOUS) for n in names) for names in (ours, theirs))
    matches = match_channels(source[:images], target[:wanted])
    ratio = images / wanted
    mean = kernel[:, :images].mean(dim=1)
    columns = [ratio * (mean if at is None else kernel[:, at]) for at in matches]
    for name in theirs[wanted:]:
        known = name in ours
        columns.append(kernel[:, ours.index(name)] if known else torch.zeros_like(mean))
    new = [name.removeprefix(PREVIOUS) for name in theirs[wanted:] if name not in ours]
    notes = [_how(source[:images], target[:wanted], matches)]
    notes += [f"times {ratio:g}"] * (ratio != 1)
    zeros = f"; previous stage's {', '.join(new)} at 0" if new else ""
    return torch.stack(columns, dim=1), ", ".join(notes) + zeros


def fit_head(
    head: Tensor, own: Tensor, source: Sequence[str], target: Sequence[str]
) -> tuple[Tensor, str] | None:
    """Return a head (out, …) for other outputs, and how; None if no label has the same name.

    Args:
        head: Weights or bias of the source.
        own: Those of the target; its rows stay where the source has none of that name.
        source: Names of the outputs there; `background` alone is not a match.
        target: Names of the outputs here.
    """
    ours, theirs = same_case(source), same_case(target)
    if ours == theirs and head.shape == own.shape:
        return head, ""
    shared = [name for name in theirs if name in ours]
    if not set(shared) - {"background"} or head.shape[1:] != own.shape[1:]:
        return None
    fitted = own.clone()
    for row, name in enumerate(theirs):
        if name in ours:
            fitted[row] = head[ours.index(name)]
    new = [name for name in theirs if name not in ours]
    return fitted, f"rows by name: {', '.join(shared)}" + (f"; new: {', '.join(new)}" * bool(new))


def fit_kernel(kernel: Tensor, shape: torch.Size, *, upsampling: bool) -> tuple[Tensor, str] | None:
    """Return a kernel (…, *k) of another size; '' for how if it fits; None if it cannot.

    Convolutions: a size of 1 is put in the middle of zeros, which computes the same; any size
    becomes 1 by its sum, which computes the same where images do not change along that axis. A
    kernel of two axes counts as one slice. Upsampling: 1 is repeated, and becomes 1 by its mean.
    """
    axes = len(shape) - 2
    if kernel.shape == shape:
        return kernel, ""
    if axes < 1 or kernel.shape[:2] != shape[:2] or abs(kernel.dim() - len(shape)) > 1:
        return None
    fitted = kernel.unsqueeze(2) if kernel.dim() < len(shape) else kernel
    wanted = (1, *shape[2:]) if kernel.dim() > len(shape) else tuple(shape[2:])
    for axis, size in enumerate(wanted, start=2):
        before = fitted.shape[axis]
        if before == size:
            continue
        if 1 not in (before, size):
            return None
        fitted = _resized(fitted, axis, size, upsampling=upsampling)
    sizes = ("×".join(map(str, s[2:])) for s in (kernel.shape, shape))
    return fitted.reshape(shape), f"kernel {' to '.join(sizes)}"


def _resized(kernel: Tensor, axis: int, size: int, *, upsampling: bool) -> Tensor:
    """Return a kernel whose axis goes from 1 to `size`, or from any size to 1."""
    if upsampling:
        if size == 1:
            return kernel.mean(dim=axis, keepdim=True)
        return kernel.repeat_interleave(size, dim=axis)
    if size == 1:
        return kernel.sum(dim=axis, keepdim=True)
    shape = list(kernel.shape)
    shape[axis] = size
    fitted = kernel.new_zeros(shape)
    fitted.select(axis, size // 2).copy_(kernel.select(axis, 0))
    return fitted


def _how(source: Sequence[str], target: Sequence[str], matches: Sequence[int | None]) -> str:
    """Return how channels found their counterparts, in words."""
    if are_in_order(source, target):
        pairs = zip(matches, target, strict=True)
        shown = ", ".join(f"{source[at]} → {name}" for at, name in pairs if at is not None)
        return f"channels in order: {shown}"
    taken = ("from the mean" if at is None else "by name" for at in matches)
    return "channels: " + ", ".join(f"{a} {b}" for a, b in zip(target, taken, strict=True))
