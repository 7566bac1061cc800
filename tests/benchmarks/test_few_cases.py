"""Five real cases: what a model of generated data, a second data set or bare images are worth."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from fewcases import ARMS, Sizes, Study, compared, described, run_arm
from realdata import data_root

from selfseg.records import serial

# About an hour on two quiet cores for all arms; those with a start also train the source, once.
STEPS = 800
GATED_STEPS = 500  # as much arithmetic
SIZES = Sizes(
    source_cases=60,
    source_steps=STEPS,
    images=100,
    pretrain_steps=STEPS,
    steps=STEPS,
    gated_steps=GATED_STEPS,
)
CASES = 40


@pytest.fixture(scope="session")
def study(pytestconfig: pytest.Config) -> Study:
    """The folder outlives the session, so that arms may be run on several days.

    Other sizes have another folder; `--cache-clear` begins anew, as is needed for other code.
    """
    data = data_root("hippocampus")
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir("few_cases") / serial.digest(SIZES)[:8]
    return Study(Path(folder), data, SIZES)


@pytest.mark.bench
@pytest.mark.data
@pytest.mark.parametrize("arm", ARMS)
def test_five_cases(study: Study, arm: str) -> None:
    results = run_arm(study, arm)
    sys.stdout.write(f"\n{described(results)}\n{study.root / 'results.json'}\n")
    (found,) = (item for item in results.arms if item.arm == arm)
    assert found.table.shape == (CASES, 2)
    assert np.isfinite(found.table).all()
    assert compared(results)[arm][0].lower > 0.5
