"""What a second source adds to a U-Net: a gated second encoder, or a stream of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from selfseg.networks.blocks import convolution, initialize
from selfseg.networks.norm_act import InstanceNormLeakyReLU
from selfseg.networks.unet import build_encoder
from selfseg.records.network import GatedEncoders, PlainNetwork


class GatedFusion(nn.Module):
    """`P + σ(G[P; A])·W(A)` with 1×1 convolutions G and W; W starts at zero, so the result at P.

    Args:
        width: Channels of P and of A.
        dims: Axes of space.
    """

    def __init__(self, width: int, dims: int) -> None:
        super().__init__()
        ones = (1,) * dims
        self.gate = convolution(2 * width, width, ones, ones)
        self.value = convolution(width, width, ones, ones)

    def forward(self, primary: Tensor, other: Tensor) -> Tensor:
        """Map two maps (b, width, D) to one."""
        gate = self.gate(torch.cat((primary, other), dim=1)).sigmoid()
        fused: Tensor = primary + gate * self.value(other)
        return fused


class SecondEncoder(nn.Module):
    """An encoder A like the primary one, whose maps are added to the primary ones at every level.

    Args:
        backbone: The primary network; A has its widths, kernels and strides.
        options: What A sees, and whether it is trained.
        channels: Input channels of the primary network.
    """

    def __init__(self, backbone: PlainNetwork, options: GatedEncoders, channels: int) -> None:
        super().__init__()
        self.channels = options.channels or channels
        self.encoder = build_encoder(backbone, self.channels)
        dims = len(backbone.strides[0])
        self.fusions = nn.ModuleList(GatedFusion(width, dims) for width in backbone.features)
        initialize(self)
        for fusion in self.fusions:
            value = fusion.get_submodule("value")
            nn.init.zeros_(value.get_parameter("weight"))
        if options.frozen:
            self.encoder.requires_grad_(False)

    def forward(self, x_bcD: Tensor, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:  # noqa: N803
        """Return the maps of the primary encoder, full resolution first, with what A adds.

        Args:
            x_bcD: Input of the network; A sees its first channels.
            maps: What the primary encoder made of it.
        """
        other, fused = x_bcD[:, : self.channels], []
        for stage, fusion, primary in zip(self.encoder, self.fusions, maps, strict=True):
            other = stage(other)
            fused.append(fusion(primary, other))
        return tuple(fused)


class AuxiliaryStream(nn.Module):
    """Norm parameters, perhaps heads, of a network for a second data set; the rest is shared.

    Only training uses it: it is no part of the weights that are written for prediction.

    Args:
        network: Whose norms and `heads` are given a second set of parameters.
        outputs: Outputs of the heads for the second data set; None: the heads are shared.
    """

    def __init__(self, network: nn.Module, outputs: int | None) -> None:
        super().__init__()
        self.parameters_of = nn.ParameterDict()
        for name, module in network.named_modules():
            if isinstance(module, InstanceNormLeakyReLU):
                for part, values in module.named_parameters():
                    self._add(f"{name}.{part}", values.detach().clone())
        if outputs is None:
            return
        for name, values in network.get_submodule("heads").named_parameters():
            fresh = values.detach().new_zeros((outputs, *values.shape[1:]))
            if fresh.dim() > 1:
                nn.init.kaiming_normal_(fresh, a=0.01)
            self._add(f"heads.{name}", fresh)

    def weights(self) -> Mapping[str, Tensor]:
        """Return the parameters by the names of those that they stand in for."""
        return {name.replace("/", "."): values for name, values in self.parameters_of.items()}

    def _add(self, name: str, values: Tensor) -> None:
        self.parameters_of[name.replace(".", "/")] = nn.Parameter(values)
