"""Speed on a GPU in one run of a few minutes: training steps, busy share, tiles; JSON out.

`python tests/gpu/bench.py --out results.json`. Where nnU-Net's network package is installed its
network and loss run in turn with ours, eager and compiled, on data that already lie on the device
(their best case); ours loads and augments. `--toy` shrinks everything, for machines without a GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch._C._autograd import DeviceType

sys.path[:0] = [str(Path(__file__).parents[1])]
from trainingdata import make_configuration, make_folder  # noqa: E402

from selfseg.inference.sliding_window import predict_logits  # noqa: E402
from selfseg.inference.window_grid import make_grid  # noqa: E402
from selfseg.loading.batches import default_loader_workers, training_batches  # noqa: E402
from selfseg.losses.build import build_loss  # noqa: E402
from selfseg.networks.device import wait_for  # noqa: E402
from selfseg.records.dataset import Label, Targets  # noqa: E402
from selfseg.records.loss import Loss  # noqa: E402
from selfseg.records.loss_terms import CrossEntropyTerm, DiceTerm  # noqa: E402
from selfseg.records.network import Network, ResidualUNet, UNet  # noqa: E402
from selfseg.records.optimization import SGD, Poly, Recipe  # noqa: E402
from selfseg.records.plan import Inference  # noqa: E402
from selfseg.training.state import create_state  # noqa: E402
from selfseg.training.step import train_step  # noqa: E402

OUTPUTS = 3
ROUNDS = 3


@dataclass(frozen=True)
class Size:
    """How large the benchmark is; the full one is nnU-Net's default 3D plan."""

    patch: tuple[int, int, int] = (128, 128, 128)
    batch: int = 2
    features: tuple[int, ...] = (32, 64, 128, 256, 320, 320)
    case: tuple[int, int, int] = (192, 224, 224)
    cases: int = 4
    warm_up: int = 12
    steps: int = 40

    @property
    def strides(self) -> tuple[tuple[int, ...], ...]:
        """One halving a stage."""
        return ((1, 1, 1), *((2, 2, 2),) * (len(self.features) - 1))


TOY = Size(
    patch=(16, 16, 16), batch=2, features=(4, 8), case=(24, 24, 24), cases=2, warm_up=1, steps=2
)


@dataclass(frozen=True)
class Row:
    """One measurement; None where it does not apply."""

    what: str
    network: str
    ms_per_step: float
    busy_share: float | None = None
    waited_share: float | None = None
    tiles_per_s: float | None = None
    peak_gib: float | None = None


def networks(size: Size) -> dict[str, Network]:
    """Return the plain network and the one with the blocks of ResEnc-L."""
    stages = len(size.features)
    kernels = ((3, 3, 3),) * stages
    return {
        "plain": UNet(
            features=size.features,
            kernels=kernels,
            strides=size.strides,
            convs_encoder=(2,) * stages,
            convs_decoder=(2,) * (stages - 1),
        ),
        "ResEnc-L": ResidualUNet(
            features=size.features,
            kernels=kernels,
            strides=size.strides,
            blocks_encoder=(1, 3, 4, 6, 6, 6)[:stages],
            convs_decoder=(1,) * (stages - 1),
        ),
    }


class Ours:
    """selfseg's own step, with loader, augmentation and loss."""

    def __init__(self, network: Network, size: Size, folder: Path, device: torch.device) -> None:
        ids = make_folder(folder, cases=size.cases, shape=size.case)
        configuration = make_configuration(size.patch, batch=size.batch).model_copy(
            update={"network": network, "loss": Loss(terms=(DiceTerm(), CrossEntropyTerm()))}
        )
        recipe = Recipe(optimizer=SGD(), schedule=Poly())
        self.state = create_state(
            configuration, recipe, channels=1, outputs=OUTPUTS, seed=0, device=device
        )
        labels = tuple(Label(name=str(value), value=value) for value in range(1, OUTPUTS))
        self.loss = build_loss(configuration.loss, Targets(labels=labels)).to(device)
        self.batches = training_batches(
            configuration,
            folder,
            ids,
            steps=range(2**30),
            seed=0,
            workers=default_loader_workers(device),
            device=device,
        )
        self.waited_s = 0.0

    def __call__(self) -> None:
        """Make a step."""
        began_s = time.perf_counter()
        batch = next(self.batches)
        self.waited_s += time.perf_counter() - began_s
        train_step(self.state, batch, self.loss, learning_rate=0.01, gradient_clip=12.0)


class Theirs:
    """A step of nnU-Net's network and loss, with data on the device."""

    def __init__(self, kind: str, size: Size, device: torch.device, *, compiled: bool) -> None:
        from dynamic_network_architectures.architectures import unet
        from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
        from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
        from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

        stages = len(size.features)
        depth = (
            {"n_conv_per_stage": [2] * stages, "n_conv_per_stage_decoder": [2] * (stages - 1)}
            if kind == "plain"
            else {
                "n_blocks_per_stage": [1, 3, 4, 6, 6, 6][:stages],
                "n_conv_per_stage_decoder": [1] * (stages - 1),
            }
        )
        build = unet.PlainConvUNet if kind == "plain" else unet.ResidualEncoderUNet
        network = build(
            input_channels=1,
            num_classes=OUTPUTS,
            n_stages=stages,
            features_per_stage=list(size.features),
            conv_op=nn.Conv3d,
            kernel_sizes=[[3, 3, 3]] * stages,
            strides=[list(stride) for stride in size.strides],
            conv_bias=True,
            norm_op=nn.InstanceNorm3d,
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
            deep_supervision=True,
            **depth,
        ).to(device)
        self.parameters = list(network.parameters())
        self.network = torch.compile(network) if compiled else network
        weights = np.array([1 / 2**i for i in range(stages - 1)])
        weights[-1] = 0 if stages > 2 else 1
        options = {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}
        loss = DC_and_CE_loss(options, {}, dice_class=MemoryEfficientSoftDiceLoss)
        self.loss = DeepSupervisionWrapper(loss, weights / weights.sum())
        self.optimizer = torch.optim.SGD(
            self.parameters, lr=0.01, momentum=0.99, nesterov=True, weight_decay=3e-5
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
        self.device = device
        self.image = torch.randn(size.batch, 1, *size.patch, device=device)
        label = torch.randint(0, OUTPUTS, (size.batch, 1, *size.patch), device=device).float()
        self.targets = [label[:, :, :: 2**i, :: 2**i, :: 2**i] for i in range(stages - 1)]

    def __call__(self) -> None:
        """Make a step."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, enabled=self.device.type == "cuda"):
            value = self.loss(self.network(self.image), self.targets)
        self.scaler.scale(value).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.parameters, 12)
        self.scaler.step(self.optimizer)
        self.scaler.update()


def in_turn(
    steppers: Sequence[Callable[[], None]], size: Size, device: torch.device
) -> list[float]:
    """Return the median milliseconds of a step of each, in rounds that alternate."""
    for step in steppers:
        for _ in range(size.warm_up):
            step()
    times: list[list[float]] = [[] for _ in steppers]
    for _ in range(ROUNDS):
        for step, found in zip(steppers, times, strict=True):
            wait_for(device)
            began_s = time.perf_counter()
            for _ in range(size.steps):
                step()
            wait_for(device)
            found.append(1e3 * (time.perf_counter() - began_s) / size.steps)
    return [statistics.median(found) for found in times]


def busy_share(step: Callable[[], None], steps: int, device: torch.device) -> float | None:
    """Return the share of the time in which the device computes; None on a CPU."""
    if device.type != "cuda":
        return None
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(steps):
            step()
        wait_for(device)
    events = profile.events() or []
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in events
        if event.device_type == DeviceType.CUDA
    )
    if not spans:
        return None
    busy, reached = 0.0, spans[0][0]
    for start, end in spans:
        busy += max(end - max(start, reached), 0)
        reached = max(reached, end)
    return float(busy / (reached - spans[0][0]))


@torch.no_grad()
def tiles_per_second(ours: Ours, size: Size, device: torch.device) -> float:
    """Return how many windows of a training patch's size are predicted a second, no mirroring."""
    network = ours.state.network.eval()
    image = torch.randn(1, *(3 * side for side in size.patch))
    options = Inference(mirror_axes=())
    windows = make_grid(
        image.shape[1:], size.patch, step=options.step, sigma=options.window_sigma
    ).windows()
    times = []
    for _ in range(2):  # the first one warms up
        wait_for(device)
        began_s = time.perf_counter()
        predict_logits(
            network, image, patch=size.patch, options=options, outputs=OUTPUTS, device=device
        )
        wait_for(device)
        times.append(time.perf_counter() - began_s)
    network.train()
    return len(windows) / times[-1]


@contextmanager
def peak(device: torch.device) -> Iterator[Callable[[], float | None]]:
    """Give what returns the most device memory in GiB since the start; None on a CPU."""
    if device.type != "cuda":
        yield lambda: None
        return
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    yield lambda: torch.cuda.max_memory_allocated(device) / 2**30


def has_nnunet() -> bool:
    """Tell whether nnU-Net's network and loss can be imported."""
    try:
        import dynamic_network_architectures  # noqa: F401
        import nnunetv2  # noqa: F401
    except ImportError:
        return False
    return True


def measure(name: str, network: Network, size: Size, device: torch.device) -> list[Row]:
    """Measure ours, and theirs where it is there."""
    with tempfile.TemporaryDirectory() as folder, peak(device) as most:
        ours = Ours(network, size, Path(folder), device)
        ours()
        first = Row("selfseg, loading and augmenting", name, 0.0, peak_gib=most())
        others: dict[str, Callable[[], None]] = {}
        if has_nnunet():
            others["nnU-Net's network and loss, eager"] = Theirs(name, size, device, compiled=False)
            if device.type == "cuda":
                others["the same, compiled"] = Theirs(name, size, device, compiled=True)
        times = in_turn([ours, *others.values()], size, device)
        ours.waited_s, began_s = 0.0, time.perf_counter()
        busy = busy_share(ours, size.steps, device)
        waited = None if busy is None else ours.waited_s / (time.perf_counter() - began_s)
        rows = [
            replace(
                first,
                ms_per_step=times[0],
                busy_share=busy,
                waited_share=waited,
                tiles_per_s=tiles_per_second(ours, size, device),
            )
        ]
        rows += [Row(what, name, ms) for what, ms in zip(others, times[1:], strict=True)]
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure both networks and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--toy", action="store_true", help="tiny sizes, any device")
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not options.toy:
        parser.error("no CUDA device here; --toy tries the script out")
    size = TOY if options.toy else Size()
    rows: list[Row] = []
    for name, network in networks(size).items():
        rows += measure(name, network, size, device)
        sys.stdout.write("\n".join(map(str, rows)) + "\n")
        sys.stdout.flush()
    on = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    found = {"device": on, "torch": torch.__version__, "rows": [asdict(row) for row in rows]}
    options.out.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
