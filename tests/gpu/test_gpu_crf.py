"""The dense CRF on a CUDA device against the CPU."""

from __future__ import annotations

import pytest
import torch

from selfseg.postprocessing.crf import Method, refine
from selfseg.records.crf import DenseCrf

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("method", ["window", "lattice"])
def test_gpu_and_cpu_give_the_same(method: Method) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn((1, 8, 12, 10), generator=generator)
    probabilities = torch.randn((3, 8, 12, 10), generator=generator).softmax(0)
    options = DenseCrf(theta_intensity=0.5)
    expected = refine(probabilities, image, (3.0, 1.0, 1.0), options, method=method)
    found = refine(probabilities.cuda(), image.cuda(), (3.0, 1.0, 1.0), options, method=method)
    assert found.device.type == "cuda"
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-4)
