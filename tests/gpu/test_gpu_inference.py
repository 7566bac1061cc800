import copy

import pytest
import torch
from torch import Tensor, nn

from selfseg.inference.ensemble import MeanOfLogits, turn
from selfseg.inference.logit_store import LogitStore, MemoryBudget
from selfseg.inference.sliding_window import predict_logits
from selfseg.records.plan import Inference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv3d(1, 3, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.layer(x),)


@pytest.mark.parametrize("max_gib", [None, 0.0])
def test_gpu_and_cpu_give_the_same_up_to_reduced_precision(max_gib: float | None) -> None:
    x = torch.randn(1, 20, 30, 40, generator=torch.Generator().manual_seed(1))
    options = Inference(mirror_axes=(0, 1, 2))
    results = {}
    for name in ("cpu", "cuda"):
        device = torch.device(name)
        logits = predict_logits(
            Small().to(device),
            x,
            patch=(16, 16, 16),
            options=options,
            outputs=3,
            device=device,
            store=LogitStore(MemoryBudget(max_gib)) if name == "cuda" else None,
        )
        expected = "cuda" if name == "cuda" and max_gib is None else "cpu"
        assert logits.device.type == expected
        results[name] = logits.float().cpu()
    torch.testing.assert_close(results["cuda"], results["cpu"], rtol=0.02, atol=0.02)


def test_logits_are_read_while_something_else_is_computed() -> None:
    logits = torch.arange(2**20, device="cuda").reshape(4, 64, 64, 64)[:, 1:] * 3
    with LogitStore().reading(logits):
        logits[:, 0].cpu()  # loading a kernel and taking memory may wait
        other = torch.cuda.default_stream()
        with torch.cuda.stream(other):
            torch.cuda._sleep(4_000_000_000)  # type: ignore[no-untyped-call]  # cycles: seconds
        parts = [logits[:, z].cpu() for z in range(logits.shape[1])]
        assert not other.query(), "reading has waited"
    expected = torch.arange(2**20).reshape(4, 64, 64, 64)[:, 1:] * 3
    assert torch.equal(torch.stack(parts, dim=1), expected)
    torch.cuda.synchronize()


@pytest.mark.parametrize("room", [0.0, float("inf")])
def test_networks_take_turns_on_the_gpu_and_leave_it(room: float) -> None:
    device = torch.device("cuda")
    x = torch.randn(1, 1, 8, 16, 16, device=device)
    networks = [Small(), Small(), Small()]
    for factor, network in enumerate(networks, start=1):
        network.requires_grad_(False)
        network.layer.weight.mul_(factor)
    first, second, third = (copy.deepcopy(network).to(device)(x)[0] for network in networks)
    expected = (first + second + third) / 3
    mean = MeanOfLogits(networks)
    before = torch.cuda.memory_allocated(device)
    with turn(mean, device, room):
        assert torch.equal(mean(x)[0], expected)
        assert torch.equal(mean(x)[0], expected)
        assert torch.cuda.memory_allocated(device) > before
    assert torch.cuda.memory_allocated(device) == before
    assert all(parameter.device.type == "cpu" for parameter in mean.parameters())
