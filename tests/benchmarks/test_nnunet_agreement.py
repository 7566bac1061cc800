"""Label maps of an imported model against nnU-Net's own, on all cases that there are."""

from __future__ import annotations

from pathlib import Path

import pytest
from nnunetagreement import agreement
from realdata import data_root


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.bench
@pytest.mark.parametrize("tta", [False, True])
def test_all_cases_of_a_real_model(tmp_path: Path, tta: bool) -> None:
    folder = data_root("nnunet_model") / "predictions_plain"
    cases = sorted(path.name.removesuffix(".nii.gz") for path in folder.glob("*.nii.gz"))
    shares = agreement(tmp_path, cases, tta=tta)
    mean = sum(shares.values()) / len(shares)
    print(f"agreement of {len(cases)} cases: least {min(shares.values()):.6f}, mean {mean:.6f}")
    assert min(shares.values()) >= 0.9999, shares
