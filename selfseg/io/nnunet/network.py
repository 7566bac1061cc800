"""nnU-Net's network arguments as options of ours, where ours computes the same."""

from __future__ import annotations

from selfseg.errors import ModelError
from selfseg.io.nnunet.plans import Architecture, NetworkKwargs
from selfseg.records.network import PlainNetwork, ResidualUNet, UNet

FIXED = "Only what nnU-Net's own planners write can run here; a changed network cannot."


def network_options(architecture: Architecture, *, source: str) -> PlainNetwork:
    """Return the options of the same network.

    Raises:
        ModelError: It is another network, or has another norm, activation or dropout; all
            findings at once.
    """
    arguments = architecture.arch_kwargs
    kind = architecture.network_class_name.rpartition(".")[2]
    findings = _differences(arguments)
    blocks = arguments.n_conv_per_stage
    if kind == "ResidualEncoderUNet":
        blocks = arguments.n_blocks_per_stage
    elif kind != "PlainConvUNet":
        findings.append(f"network {kind}, must be PlainConvUNet or ResidualEncoderUNet")
    if blocks is None and not findings:
        findings.append("no number of convolutions or blocks a stage")
    if findings:
        raise ModelError(f"{source}: {'; '.join(findings)}", remedy=FIXED)
    stages = arguments.n_stages
    encoder = _each(blocks or 0, stages)
    decoder = tuple(reversed(_each(arguments.n_conv_per_stage_decoder, stages - 1)))
    if kind == "PlainConvUNet":
        return UNet(
            features=arguments.features_per_stage,
            kernels=arguments.kernel_sizes,
            strides=arguments.strides,
            convs_encoder=encoder,
            convs_decoder=decoder,
        )
    return ResidualUNet(
        features=arguments.features_per_stage,
        kernels=arguments.kernel_sizes,
        strides=arguments.strides,
        blocks_encoder=encoder,
        convs_decoder=decoder,
    )


def _each(count: tuple[int, ...] | int, stages: int) -> tuple[int, ...]:
    return (count,) * stages if isinstance(count, int) else count


def _differences(arguments: NetworkKwargs) -> list[str]:
    """Return where the layers are not those of our networks."""
    dims = len(arguments.kernel_sizes[0]) if arguments.kernel_sizes else 0
    slope = (arguments.nonlin_kwargs or {}).get("negative_slope", 0.01)
    norm = arguments.norm_op_kwargs
    stages = arguments.n_stages
    lengths = {len(arguments.features_per_stage), len(arguments.kernel_sizes)}
    rules = (
        (lengths == {stages} == {len(arguments.strides)}, f"lists of other lengths than {stages}"),
        (arguments.conv_op.endswith(f".Conv{dims}d"), f"convolution {arguments.conv_op}"),
        (arguments.conv_bias, "convolutions without bias"),
        (arguments.norm_op.endswith(f".InstanceNorm{dims}d"), f"norm {arguments.norm_op}"),
        (
            norm.get("eps", 1e-5) == 1e-5 and norm.get("affine") is True,
            f"norm with {norm}, must be affine with eps 1e-05",
        ),
        (
            arguments.nonlin.endswith(".LeakyReLU") and slope == 0.01,
            f"activation {arguments.nonlin} with slope {slope}, must be LeakyReLU with 0.01",
        ),
    )
    return [text for fulfilled, text in rules if not fulfilled]
