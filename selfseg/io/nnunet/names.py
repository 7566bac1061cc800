"""Where each tensor of nnU-Net's U-Nets goes in ours; every one is used exactly once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import assert_never

import torch
from torch import Tensor

from selfseg.errors import ModelError
from selfseg.records.network import PlainNetwork, ResidualUNet, UNet

SEVERAL = 4  # names that a message lists
OTHER = "Import models of nnU-Net's plain and residual-encoder U-Nets; other networks cannot run."


def tensor_names(network: PlainNetwork) -> dict[str, str]:
    """Return our name of each tensor, and nnU-Net's."""
    return {
        f"{ours}.{part}": f"{theirs}.{part}"
        for ours, theirs, parts in _modules(network)
        for part in parts
    }


def rename(
    tensors: Mapping[str, Tensor], network: PlainNetwork, *, source: str
) -> dict[str, Tensor]:
    """Return nnU-Net's tensors under our names.

    nnU-Net lists most tensors several times: the encoder also inside the decoder, every layer also
    in `all_modules`. Such doubles must equal what is used.

    Args:
        tensors: By nnU-Net's names.
        network: What they belong to.
        source: Named in messages.

    Raises:
        ModelError: Tensors are missing or left over, or doubles differ.
    """
    names = tensor_names(network)
    missing = sorted(set(names.values()) - tensors.keys())
    if missing:
        raise ModelError(f"{source}: weights are missing: {_few(missing)}", remedy=OTHER)
    used = set(names.values())
    left = sorted(tensors.keys() - used)
    surplus = [name for name in left if _first_name(name) not in used]
    if surplus:
        raise ModelError(
            f"{source}: weights that the plans do not know: {_few(surplus)}", remedy=OTHER
        )
    differing = [n for n in left if not torch.equal(tensors[n], tensors[_first_name(n)])]
    if differing:
        raise ModelError(
            f"{source}: weights that should be the same differ: {_few(differing)}",
            remedy="The checkpoint was changed after training; import the original.",
        )
    return {ours: tensors[theirs] for ours, theirs in names.items()}


def _first_name(name: str) -> str:
    """Return the name that a double stands for; the name itself if it is none."""
    name = name.removeprefix("decoder.") if name.startswith("decoder.encoder.") else name
    before, doubled, rest = name.partition(".all_modules.")
    if not doubled:
        return name
    place, _, part = rest.partition(".")
    return f"{before}.{'conv' if place == '0' else 'norm'}.{part}"


Parts = tuple[str, ...]
BOTH: Parts = ("weight", "bias")


def _block(ours: str, theirs: str, *, bias: bool = True) -> Iterator[tuple[str, str, Parts]]:
    yield f"{ours}.conv", f"{theirs}.conv", BOTH if bias else ("weight",)
    yield f"{ours}.norm", f"{theirs}.norm", BOTH


def _modules(network: PlainNetwork) -> Iterator[tuple[str, str, Parts]]:
    """Yield our name of a layer, nnU-Net's, and the names of its tensors."""
    match network:
        case UNet():
            for stage, count in enumerate(network.convs_encoder):
                for i in range(count):
                    yield from _block(f"encoder.{stage}.{i}", f"encoder.stages.{stage}.0.convs.{i}")
        case ResidualUNet():
            yield from _block("encoder.0.0", "encoder.stem.convs.0")
            for stage, count in enumerate(network.blocks_encoder):
                for i in range(count):
                    yield from _residual(network, stage, i)
        case _:
            assert_never(network)
    for depth, count in enumerate(reversed(network.convs_decoder)):
        yield f"upsample.{depth}", f"decoder.transpconvs.{depth}", BOTH
        for i in range(count):
            yield from _block(f"decoder.{depth}.{i}", f"decoder.stages.{depth}.convs.{i}")
        yield f"heads.{depth}", f"decoder.seg_layers.{depth}", BOTH


def _residual(network: ResidualUNet, stage: int, index: int) -> Iterator[tuple[str, str, Parts]]:
    """Yield the layers of a residual block; the first of a stage may project what it skips."""
    place = index + 1 if stage == 0 else index  # the stem stands before the blocks
    ours, theirs = f"encoder.{stage}.{place}", f"encoder.stages.{stage}.blocks.{index}"
    yield from _block(f"{ours}.first", f"{theirs}.conv1")
    yield from _block(f"{ours}.second", f"{theirs}.conv2")
    width = network.features[stage]
    if index == 0 and width != network.features[max(stage - 1, 0)]:
        pooled = int(prod(network.strides[stage]) > 1)  # pooling stands before the projection
        yield from _block(f"{ours}.skip.{pooled}", f"{theirs}.skip.{pooled}", bias=False)


def _few(names: list[str]) -> str:
    more = f" and {len(names) - SEVERAL} more" if len(names) > SEVERAL else ""
    return ", ".join(names[:SEVERAL]) + more
