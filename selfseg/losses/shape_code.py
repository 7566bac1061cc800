"""The shape constraint: predicted and true organ compared as a frozen shape model sees them.

Our reading of the constraint on learned shape codes of Tan 2021; the feature maps beside the code
are ours, since the code alone has weak gradients.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from selfseg.losses.balance import balanced_weight
from selfseg.losses.view import View
from selfseg.networks.shape_autoencoder import ShapeModel
from selfseg.networks.shape_grid import ShapeBox, bounds, sample_box
from selfseg.records.dataset import Targets
from selfseg.records.loss_terms import ShapeCodeTerm

NO_SHAPES: Mapping[str, ShapeModel] = MappingProxyType({})


class Organ(NamedTuple):
    """A whole organ in a batch: its sample, and a box around it in voxels."""

    sample: int
    box: ShapeBox


class ShapeCode(nn.Module):
    """`mean(‖e(p) − e(y)‖²/K + w·Σ_l ‖φ_l(p) − φ_l(y)‖²/|φ_l|)` over whole organs of a batch.

    p and y are probability and reference in the box of the reference (with its margin, jittered
    while training), e the code of K numbers, φ_l the feature maps. Organs that touch the border of
    the patch, or have a voxel nearby that is not annotated, do not count; without any the value is
    0. Labels without a shape model do not count either.

    Args:
        options: Labels and weights.
        targets: Their names.
        shapes: Models by label, on the device of the logits, frozen. They are no part of the
            module, so neither its state nor its device is theirs.
    """

    def __init__(
        self, options: ShapeCodeTerm, targets: Targets, shapes: Mapping[str, ShapeModel]
    ) -> None:
        super().__init__()
        self.options = options
        self._models = tuple(
            (channel, shapes[name])
            for channel, name in enumerate(targets.names)
            if name in options.labels and name in shapes
        )

    def forward(self, view: View) -> Tensor:
        """Return the scalar loss; shape models compute in float32 whatever the network does."""
        nothing = view.foreground[:, :, :1].sum() * 0
        if not self._models or view.logits.dim() != 5:
            return nothing
        masks = view.reference > 0.5
        costs = []
        with torch.autocast(view.logits.device.type, enabled=False):
            own = torch.stack([masks[:, channel] for channel, _ in self._models], dim=1)
            organs = whole_organs(own)
            for (channel, model), whole in zip(self._models, organs, strict=True):
                found = [
                    Organ(sample, box.grown(model.margin))
                    for sample, box in whole
                    if view.known is None
                    or annotated(view.known[sample, 0], box.grown(model.margin))
                ]
                if found:
                    costs.append(self._compare(view, channel, model, found))
        return torch.cat(costs).mean() if costs else nothing

    def balance(
        self, rest: Tensor, value: Tensor, view: View, memory: dict[str, Tensor], key: str
    ) -> float:
        """Return the weight that keeps the gradient of `value` at its share of that of `rest`."""
        return balanced_weight(rest, value, view.logits, self.options, memory, key)

    def _compare(
        self, view: View, channel: int, model: ShapeModel, found: Sequence[Organ]
    ) -> Tensor:
        """Return the cost of each organ of one label, (organs,)."""
        pairs = [
            torch.stack([view.foreground[sample, channel], view.reference[sample, channel]])
            for sample, _ in found
        ]
        boxes = [self._jittered(box) for _, box in found]
        maps = torch.stack(
            [
                sample_box(pair.float(), box, model.grid)
                for pair, box in zip(pairs, boxes, strict=True)
            ]
        )
        predicted = model.encode(maps[:, :1])
        with torch.no_grad():
            true = model.encode(maps[:, 1:])
        cost = (predicted.code - true.code).square().mean(dim=1)
        for ours, theirs in zip(predicted.features, true.features, strict=True):
            cost = cost + self.options.features * (ours - theirs).square().flatten(1).mean(dim=1)
        return cost

    def _jittered(self, box: ShapeBox) -> ShapeBox:
        if not (self.options.jitter and torch.is_grad_enabled()):
            return box
        draws = (self.options.jitter * (2 * torch.rand(6) - 1)).tolist()
        return box.moved(draws[:3], draws[3:])


def whole_organs(masks: Tensor) -> list[list[Organ]]:
    """Return for each label of masks (b, n, z, y, x) the organs that lie inside the patch.

    Waits for the device once.
    """
    limits = masks.shape[2:]
    found: list[list[Organ]] = [[] for _ in range(masks.shape[1])]
    for sample, labels in enumerate(bounds(masks).tolist()):
        for label, (low, high) in enumerate(labels):
            if all(a > 0 and a < b < n for a, b, n in zip(low, high, limits, strict=True)):
                box = ShapeBox(tuple(map(float, low)), tuple(map(float, high)))
                found[label].append(Organ(sample, box))
    return found


def annotated(known: Tensor, box: ShapeBox) -> bool:
    """Tell whether all voxels (z, y, x) that a box meets are annotated; waits for the device."""
    inside = tuple(
        slice(max(math.floor(low), 0), max(math.ceil(high), 0))
        for low, high in zip(box.lower, box.upper, strict=True)
    )
    return bool(known[inside].all())
