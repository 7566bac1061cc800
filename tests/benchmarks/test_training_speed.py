"""Training samples per second against a plain float32 PyTorch loop at the same plan, in one run."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import pytest
import targets
import torch
from selfseg.planners.families import PLAIN, build_options
from selfseg.planners.topology import decide_topology
from torch import nn
from torch.nn import functional as F
from trainingdata import make_configuration, make_folder

from selfseg.loading.batches import default_loader_workers, training_batches
from selfseg.losses.build import build_loss
from selfseg.networks.precision import autocast_dtype
from selfseg.records.loss import Loss
from selfseg.records.loss_terms import CrossEntropyTerm, DiceTerm
from selfseg.records.network import UNet
from selfseg.records.optimization import SGD, Poly, Recipe
from selfseg.training.state import create_state
from selfseg.training.step import train_step

PATCH, BATCH, STEPS, ROUNDS = (40, 56, 40), 2, 3, 5
CPU = torch.device("cpu")


class PlainUNet(nn.Module):
    """The same network as anyone would write it: torch modules, planar memory, float32."""

    def __init__(self, options: UNet) -> None:
        super().__init__()
        widths = options.features
        self.down, self.up, self.dec, self.heads = (nn.ModuleList() for _ in range(4))
        before = 1
        for width, stride in zip(widths, options.strides, strict=True):
            self.down.append(
                nn.Sequential(*self._block(before, width, stride), *self._block(width, width, 1))
            )
            before = width
        for deep, width in zip(widths[:0:-1], widths[-2::-1], strict=True):
            self.up.append(nn.ConvTranspose3d(deep, width, 2, 2))
            self.dec.append(
                nn.Sequential(*self._block(2 * width, width, 1), *self._block(width, width, 1))
            )
            self.heads.append(nn.Conv3d(width, 3, 1))

    @staticmethod
    def _block(before: int, after: int, stride: int | tuple[int, ...]) -> list[nn.Module]:
        return [
            nn.Conv3d(before, after, 3, stride, 1),  # type: ignore[arg-type]
            nn.InstanceNorm3d(after, affine=True),
            nn.LeakyReLU(0.01, inplace=True),
        ]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return logits, full resolution first."""
        skips = []
        for stage in self.down:
            x = stage(x)
            skips.append(x)
        outputs = []
        for up, dec, head, skip in zip(self.up, self.dec, self.heads, skips[-2::-1], strict=True):
            x = dec(torch.cat((up(x), skip), 1))
            outputs.append(head(x))
        return outputs[::-1]


def plain_loss(outputs: list[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
    """Dice + cross-entropy at the two finest resolutions."""
    total = torch.zeros(())
    for weight, logits in zip((2 / 3, 1 / 3), outputs, strict=False):
        labels = F.interpolate(target[:, None].float(), logits.shape[2:], mode="nearest-exact")
        labels = labels[:, 0].long()
        probability = logits.softmax(1)
        one_hot = F.one_hot(labels, 3).movedim(-1, 1).float()
        both = (probability * one_hot).sum((2, 3, 4))[:, 1:]
        every = (probability + one_hot).sum((2, 3, 4))[:, 1:]
        dice = (2 * both + 1e-5) / (every + 1e-5)
        total = total + weight * (F.cross_entropy(logits, labels) - dice.mean())
    return total


@pytest.mark.bench
def test_training_is_at_least_as_fast_as_a_plain_loop(tmp_path: Path) -> None:
    options = build_options(PLAIN, decide_topology((1, 1, 1), PATCH))
    assert isinstance(options, UNet)
    configuration = make_configuration(PATCH, batch=BATCH).model_copy(
        update={"network": options, "loss": Loss(terms=(DiceTerm(), CrossEntropyTerm()))}
    )
    cases = make_folder(tmp_path, cases=4, shape=(36, 50, 35))
    recipe = Recipe(optimizer=SGD(), schedule=Poly())
    state = create_state(configuration, recipe, channels=1, outputs=3, seed=0, device=CPU)
    loss = build_loss(configuration.loss, targets.plain(2))
    batches = training_batches(
        configuration, tmp_path, cases, steps=range(1 + STEPS * ROUNDS), seed=0,
        workers=default_loader_workers(CPU), device=CPU,
    )  # fmt: skip
    plain = PlainUNet(options)
    assert sum(p.numel() for p in plain.parameters()) == sum(
        p.numel() for p in state.network.parameters()
    )
    optimizer = torch.optim.SGD(
        plain.parameters(), lr=0.01, momentum=0.99, nesterov=True, weight_decay=3e-5
    )
    waited = [0.0]

    def ours() -> None:
        started = time.perf_counter()
        batch = next(batches)
        waited[0] += time.perf_counter() - started
        train_step(state, batch, loss, learning_rate=0.01, gradient_clip=12.0)

    image, label = torch.randn(BATCH, 1, *PATCH), torch.randint(0, 3, (BATCH, *PATCH))

    def theirs() -> None:  # data in memory, no augmentation: the plain loop's best case
        optimizer.zero_grad()
        plain_loss(plain(image), label).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 12.0)
        optimizer.step()

    ours()
    theirs()
    waited[0] = 0.0
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(ROUNDS):  # alternating, so that both meet the same noise
        for name, step in (("ours", ours), ("plain", theirs)):
            started = time.perf_counter()
            for _ in range(STEPS):
                step()
            times[name].append((time.perf_counter() - started) / STEPS)
    ratio = statistics.median(times["plain"]) / statistics.median(times["ours"])
    wait_share = waited[0] / (sum(times["ours"]) * STEPS)
    dtype, reason = autocast_dtype(CPU)
    print(
        f"\nplain {statistics.median(times['plain']):.2f} s/step, ours (with loader and full "
        f"augmentation) {statistics.median(times['ours']):.2f} s/step: {ratio:.2f}×; waited for "
        f"data {wait_share:.1%}; {reason}"
    )
    assert ratio >= (2.0 if dtype is not None else 1.0)
    assert wait_share <= 0.03
