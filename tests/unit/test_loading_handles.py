"""No number of cases exhausts the files that a process may have open."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from trainingdata import make_configuration, make_folder

from selfseg.errors import SelfSegError
from selfseg.io.store import open_array
from selfseg.loading.batches import training_batches, validation_batches
from selfseg.loading.patches import OPEN_CASES, CaseFolder, PreviousStage
from selfseg.loading.stored import read_locations

resource = pytest.importorskip("resource")

FILES = 256
CASES = 2000
SHAPE = (6, 8, 10)
IDS = tuple(f"c{number}" for number in range(CASES))


@pytest.fixture
def few_files() -> Iterator[None]:
    """Allow as few open files as the strictest usual system."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> PreviousStage:
    """Many cases of a cascade: links to two."""
    folder = tmp_path_factory.mktemp("data")
    ids = make_folder(folder, cases=2, shape=SHAPE)
    previous = folder / "previous"
    previous.mkdir()
    for number, case in enumerate(IDS):
        source = ids[number % 2]
        for ending in (".b2nd", "_label.b2nd", "_locations.npy", ".json"):
            (folder / f"{case}{ending}").hardlink_to(folder / f"{source}{ending}")
        (previous / f"{case}.b2nd").hardlink_to(folder / f"{source}_label.b2nd")
    return PreviousStage(previous, labels=2)


@pytest.mark.usefixtures("few_files")
def test_all_cases_of_a_cascade_are_read_from_files(stage: PreviousStage) -> None:
    cases = CaseFolder(stage.folder.parent, IDS, stage)
    for index in range(0, CASES, 5):  # more than there are handles
        image, label = cases.cut(index, (0, 0, 0), SHAPE)
        previous = cases.cut_previous(index, (0, 0, 0), SHAPE)
        assert np.array_equal(image[0] // 10, label)
        assert previous is not None
        assert np.array_equal(previous, label)
    assert len(cases._open) == OPEN_CASES


@pytest.mark.usefixtures("few_files")
def test_all_cases_of_a_cascade_are_held_in_memory(stage: PreviousStage) -> None:
    cases = CaseFolder(stage.folder.parent, IDS, stage)
    before, whole = _open_files(), slice(None)
    assert cases.hold_in_memory(10**9)
    assert _open_files() <= before
    assert not any(isinstance(case.locations, np.memmap) for case in cases._held.values())
    assert np.array_equal(cases[CASES - 1].label[whole], cases[1].label[whole])
    assert _open_files() <= before


def test_the_limit_of_memory_counts_every_array(stage: PreviousStage) -> None:
    cases = CaseFolder(stage.folder.parent, IDS[:3], stage)
    held = [cases[index] for index in range(3)]
    voxels = 3 * SHAPE[0] * SHAPE[1] * SHAPE[2]
    size = voxels * (4 + 2 + 2) + 12 * sum(len(case.locations) for case in held)
    assert not CaseFolder(stage.folder.parent, IDS[:3], stage).hold_in_memory(size - 1)
    assert CaseFolder(stage.folder.parent, IDS[:3], stage).hold_in_memory(size)


def test_the_case_that_was_not_used_for_longest_is_closed(stage: PreviousStage) -> None:
    cases = CaseFolder(stage.folder.parent, IDS, stage)
    for index in range(OPEN_CASES):
        assert cases[index].id == IDS[index]
    assert cases[0] is cases[0]
    assert cases[OPEN_CASES].id == IDS[OPEN_CASES]
    assert IDS[0] in cases._open
    assert IDS[1] not in cases._open


@pytest.mark.usefixtures("few_files")
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_many_cases(stage: PreviousStage, workers: int) -> None:
    options = {"seed": 0, "workers": workers, "device": torch.device("cpu"), "previous": stage}
    configuration, folder = make_configuration(SHAPE, batch=4), stage.folder.parent
    made = training_batches(configuration, folder, IDS, steps=range(60), **options)  # type: ignore[arg-type]
    assert sum(len(batch.image) for batch in made) == 240
    checks = validation_batches(configuration, folder, IDS, steps=60, **options)  # type: ignore[arg-type]
    assert sum(len(batch.image) for batch in checks) == 240


def test_a_file_that_may_not_be_opened_is_not_called_damaged(stage: PreviousStage) -> None:
    folder = stage.folder.parent
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # the standard streams have these
    try:
        with pytest.raises(SelfSegError, match=r"(?s)c0\.b2nd: cannot be read.*ulimit") as array:
            open_array(folder / "c0.b2nd")
        with pytest.raises(SelfSegError, match=r"(?s)cannot be read.*ulimit") as rows:
            read_locations(folder, "c0")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for caught in (array, rows):
        assert "damaged" not in str(caught.value)
        assert "selfseg plan" not in str(caught.value)


def _open_files() -> int:
    """Return how many files this process has open."""
    return len(list(Path("/dev/fd").iterdir()))
