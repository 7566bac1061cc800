"""From a real data set to batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from realdata import data_root
from trainingdata import make_configuration

from selfseg.io.formats import read_dataset
from selfseg.loading.batches import training_batches
from selfseg.preprocessing.dataset import Arrays, preprocess


@pytest.mark.data
def test_batches_of_real_cases(tmp_path: Path) -> None:
    dataset = read_dataset(data_root("hippocampus"))
    dataset = dataset.model_copy(update={"cases": dataset.cases[:3]})
    configuration = make_configuration((40, 56, 40), batch=3)
    options, patch = configuration.preprocessing, configuration.patch
    assert preprocess(dataset, [Arrays(tmp_path, options, patch)], workers=1) == 3
    stream = training_batches(
        configuration,
        tmp_path,
        [case.id for case in dataset.cases],
        steps=range(10),
        seed=0,
        workers=1,
        device=torch.device("cpu"),
    )
    for batch in stream:
        assert batch.image.shape == (3, 1, 40, 56, 40)
        assert bool(torch.isfinite(batch.image).all())
        # The last sample is forced to show foreground; cases are hardly larger than the patch.
        assert bool((batch.label[2] > 0).any())
        assert set(batch.label.flatten().tolist()) <= {0, 1, 2}
