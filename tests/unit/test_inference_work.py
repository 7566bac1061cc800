"""What prediction takes beside logits: counted windows, images, and how a limit is divided."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from hypothesis import given
from hypothesis import strategies as st
from tinymodel import save_model, tiny_configuration, tiny_plan
from torch import Tensor, nn

from selfseg import pipeline
from selfseg.errors import DeviceError
from selfseg.inference import limit, work
from selfseg.inference.limit import room_gib
from selfseg.inference.logit_store import GIB
from selfseg.inference.model import load_ensemble
from selfseg.inference.predictor import divide_memory, predict_cases
from selfseg.inference.window_memory import UNSEEN_BYTES, UNSEEN_SHARE, LiveBytes, window_bytes
from selfseg.inference.work import LEAST_BYTES, Needs, find_needs
from selfseg.io.headers import read_size
from selfseg.io.unlabeled import list_cases
from selfseg.networks.build import build_network
from selfseg.records.network import DSN3D, ContextUNet, Network, ResidualUNet, UNet
from selfseg.requests import PredictRequest

CPU = torch.device("cpu")
MIB = 2**20


def test_living_tensors_are_counted_and_what_was_there_is_not() -> None:
    before = torch.zeros(1000)
    live = LiveBytes([before])
    with live:
        first = before + 1  # 4000 bytes
        second = first.view(10, 100)[2:] * 2  # and 3200
        del first
        third = torch.cat([second, second])  # 3200 and 6400
        before.add_(1)
    assert live.most == 3200 + 6400
    assert len(third) == 16


class Wide(nn.Module):
    """Holds its input (1 channel), 16 channels of it, and twice that at once."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        self.sizes.append(tuple(x.shape))
        wide = x.repeat(1, 16, 1, 1, 1)
        return (torch.cat([wide, wide], dim=1)[:, :2],)


@pytest.mark.parametrize(
    ("strides", "small"), [((0, 0, 0), (16, 32, 32)), ((4, 8, 8), (8, 16, 16))]
)
def test_a_window_is_counted_on_a_smaller_one(
    strides: tuple[int, ...], small: tuple[int, ...]
) -> None:
    network, voxels = Wide(), 16 * 32 * 32
    found = window_bytes(network, (1, 16, 32, 32), (), strides)
    assert network.sizes == [(1, 1, *small)]
    # The window itself and its copies for mirroring and for the layout are there besides.
    held = (found - UNSEEN_BYTES) / UNSEEN_SHARE / 4 / voxels
    assert 1 + 16 + 32 <= held <= 3 + 16 + 32


KERNELS, STRIDES = ((3,) * 3,) * 2, ((1,) * 3, (2,) * 3)
NETWORKS = (
    (
        UNet(
            features=(4, 8), kernels=KERNELS, strides=STRIDES, convs_encoder=(1, 2),
            convs_decoder=(1,),
        ),
        (8, 16, 24),
    ),
    (
        ResidualUNet(
            features=(4, 8), kernels=KERNELS, strides=STRIDES, blocks_encoder=(1, 1),
            convs_decoder=(1,),
        ),
        (16, 8, 8),
    ),
    (DSN3D(features=(4, 8, 8), convs=(1, 1, 1)), (16, 32, 16)),
    (
        ContextUNet(
            slices=3, features=(4, 8), strides=((1, 1, 1), (1, 2, 2)), blocks_encoder=(1, 1),
            blocks_decoder=(1,), aspp_features=8,
        ),
        (3, 32, 32),
    ),
)  # fmt: skip


@pytest.mark.parametrize(("options", "patch"), NETWORKS, ids=lambda item: getattr(item, "kind", ""))
def test_every_network_takes_a_smaller_window(options: Network, patch: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = build_network(options, channels=2, outputs=3).eval()
    configuration = tiny_configuration().model_copy(update={"network": options, "patch": patch})
    strides = work._strides(configuration)
    small = window_bytes(network, (2, *patch), (0, 1), strides)
    whole = window_bytes(network, (2, *patch), (0, 1), (0,) * len(patch))
    assert small - UNSEEN_BYTES == pytest.approx(whole - UNSEEN_BYTES, rel=0.05)


@given(
    image=st.integers(0, 2**32),
    window=st.integers(1, 2**32),
    more=st.floats(0, 64),
)
def test_work_never_takes_more_than_the_room(image: int, window: int, more: float) -> None:
    needs = Needs(window=window, image=image, case="a")
    room = needs.least_gib + more
    found = needs.work(room)
    assert found.gib + 0.999 * LEAST_BYTES / GIB <= room or found.gib <= room / 2
    assert found.windows >= 1
    assert found.gib * GIB >= image + window - 1
    assert needs.work(room + 8 * needs.least_gib).overlaps
    if image > LEAST_BYTES:
        assert not needs.work(needs.least_gib).overlaps


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a folder with a model and two images, the second the larger one."""
    save_model(tmp_path / "model", tiny_plan(tiny_configuration(spacing_mm=(1.0, 1.0, 1.0))))
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a", 16), ("b", 32)):
        image = sitk.GetImageFromArray(rng.normal(size=(size, 20, 20)).astype(np.float32))
        sitk.WriteImage(image, str(tmp_path / "in" / f"{name}.nii.gz"))
    return tmp_path


def test_the_largest_image_counts_and_a_broken_one_does_not(place: Path) -> None:
    model = load_ensemble(place / "model", device=CPU).members[0]
    (place / "in" / "c.nii.gz").write_bytes(b"nothing")
    needs = find_needs([model], list_cases(place / "in", 1))
    assert needs.case == "b"
    voxels = 32 * 20 * 20
    assert 8 * voxels <= needs.image <= 40 * voxels  # the image and what it is made into
    more = find_needs([model], list_cases(place / "in", 1), probabilities=True)
    assert more.image >= 3 * 8 * voxels
    assert find_needs([model], []).image == 0
    coarse = model.configuration.preprocessing.model_copy(update={"spacing_mm": (0.5, 1.0, 1.0)})
    finer = model.configuration.model_copy(update={"preprocessing": coarse})
    size = read_size([place / "in" / "b.nii.gz"])
    fine = replace(model, configuration=finer)
    assert work.image_bytes(size, fine) > work.image_bytes(size, model) + 8 * voxels


def test_too_little_is_refused_before_anything_is_computed(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limit, "handle_freed_memory", lambda _: None)  # of this very process
    request = PredictRequest(
        source=place / "in", output=place / "out", model=place / "model", device="cpu",
        max_memory="50MB",
    )  # fmt: skip
    with pytest.raises(DeviceError, match=r"0\.05 GiB are too little.*8×16×16.*\(b\)") as caught:
        pipeline.predict_images(request)
    assert not (place / "out").exists()
    least = float(caught.value.remedy.split("--max-memory ")[1].split("GB")[0])
    ensemble, cases = load_ensemble(place / "model", device=CPU), list_cases(place / "in", 1)
    monkeypatch.setattr(limit, "held_gib", lambda: 0.3)
    held = 0.3 + limit.PROGRAM_GROWTH_GIB
    room = room_gib(least + 1, ensemble, cases)
    assert room == pytest.approx(least + 1 - held + ensemble.weights_gib)
    exact = held + find_needs(ensemble.members, cases).least_gib
    assert room_gib(exact + 1e-4, ensemble, cases) > 0
    with pytest.raises(DeviceError):
        room_gib(exact - 1e-4, ensemble, cases)


def test_one_image_at_a_time_gives_the_same(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "IMAGES_OVERLAPPING", 10_000)  # as if these images were large
    model = load_ensemble(place / "model", device=CPU).members[0]
    cases = list_cases(place / "in", 1)
    limit_gib = find_needs([model], cases).least_gib + model.weights_gib
    assert not divide_memory([model], cases, limit_gib).overlaps
    assert divide_memory([model], cases, None).overlaps
    predict_cases(model, cases, place / "free")
    report = predict_cases(model, cases, place / "limited", max_memory_gib=limit_gib)
    assert report.done == ("a", "b")
    for name in ("a.nii.gz", "b.nii.gz"):
        free, limited = (place / folder / name for folder in ("free", "limited"))
        arrays = [sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in (free, limited)]
        np.testing.assert_array_equal(*arrays)


COUNTED = """
import sys, torch
from selfseg.inference.window_memory import window_bytes
print(window_bytes(torch.nn.Sequential(torch.nn.Conv3d(1, 8, 3)), (1, 8, 8, 8), (0,), (0, 0, 0)))
print("torch._dynamo" in sys.modules)
"""


def test_counting_loads_no_compiler() -> None:
    done = subprocess.run(
        [sys.executable, "-c", COUNTED], capture_output=True, text=True, check=True
    )
    counted, loaded = done.stdout.split()
    assert int(counted) > UNSEEN_BYTES
    assert loaded == "False", "some 70 MiB of programs that prediction does not need"
