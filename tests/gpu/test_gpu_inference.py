import pytest
import torch
from torch import Tensor, nn

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
