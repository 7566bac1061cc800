"""Unit tests compare with closed forms in float32, also where a CPU has reduced formats."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from selfseg.networks import precision


@pytest.fixture(scope="package", autouse=True)
def _float32_on_every_cpu() -> Iterator[None]:
    """Commands that tests start in processes of their own compute as they do for users."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "cpu_has_native_bfloat16", lambda: False)
        patch.setattr(precision, "cpu_has_native_float16", lambda: False)
        precision.autocast_dtype.cache_clear()
        yield
    precision.autocast_dtype.cache_clear()
