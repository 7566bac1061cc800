from pathlib import Path

import pytest
import torch
from tinymodel import LABELS, save_model, tiny_configuration, tiny_plan
from torch import Tensor, nn

from selfseg.errors import ModelError, RecordError
from selfseg.inference.cascade import load_previous
from selfseg.inference.ensemble import MeanOfLogits
from selfseg.inference.find import find_models
from selfseg.inference.model import Model, load_model
from selfseg.inference.trained import weights_digest
from selfseg.networks.weights import load_weights, save_weights
from selfseg.records import serial
from selfseg.records.crop import Crop
from selfseg.records.model import TrainedFold

CPU = torch.device("cpu")


def image(dims: int = 3) -> Tensor:
    torch.manual_seed(9)
    return torch.randn(1, 1, *(16,) * dims)


@pytest.mark.parametrize("place", ["", "phantom", "phantom/models"])
def test_a_model_is_found_from_workspace_dataset_and_models_folder(
    tmp_path: Path, place: str
) -> None:
    save_model(tmp_path / "phantom", tiny_plan())
    model = load_model(tmp_path / place, device=CPU)
    assert model.configuration.name == "3d_fullres"
    assert model.folds == ("0",)
    assert model.outputs == len(LABELS) + 1
    assert "phantom 3d_fullres, fold 0" in model.description


def test_plan_and_models_are_enough(tmp_path: Path) -> None:
    dataset = save_model(tmp_path / "a", tiny_plan())
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    dataset.plan.rename(moved / "plan.json")
    dataset.models.rename(moved / "models")
    assert load_model(moved, device=CPU).folder == moved


def test_weights_are_those_of_the_fold(tmp_path: Path) -> None:
    dataset = save_model(tmp_path, tiny_plan(), folds=("0", "1"))
    model = load_model(tmp_path, folds=("1",), device=CPU)
    assert isinstance(model.network, MeanOfLogits)
    stored = load_weights(dataset.fold("3d_fullres", "1").weights)
    loaded = model.network.networks[0].state_dict()
    assert loaded.keys() == stored.keys()
    assert all(torch.equal(loaded[name], stored[name]) for name in stored)
    assert not model.network.training
    assert not any(p.requires_grad for p in model.network.parameters())


def test_all_numbered_folds_are_averaged_by_default(tmp_path: Path) -> None:
    save_model(tmp_path, tiny_plan(), folds=("all", "0", "2", "10"))
    model = load_model(tmp_path, device=CPU)
    assert model.folds == ("0", "2", "10")
    singles = [load_model(tmp_path, folds=(f,), device=CPU).network for f in model.folds]
    x = image()
    mean = torch.stack([network(x)[0] for network in singles]).mean(0)
    torch.testing.assert_close(model.network(x)[0], mean)


def test_fold_all_is_used_if_there_is_nothing_else(tmp_path: Path) -> None:
    save_model(tmp_path, tiny_plan(), folds=("all",))
    assert load_model(tmp_path, device=CPU).folds == ("all",)


def test_an_ensemble_of_equal_networks_is_the_network() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Conv2d(1, 2, 3, padding=1)

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return (self.layer(x),)

    x = image(2)
    torch.testing.assert_close(MeanOfLogits([Layer(), Layer(), Layer()])(x)[0], Layer()(x)[0])


def test_several_models_are_listed(tmp_path: Path) -> None:
    plan = tiny_plan(tiny_configuration("2d"), tiny_configuration("3d_fullres"))
    save_model(tmp_path / "a", plan, folds=("0", "1"))
    with pytest.raises(ModelError, match=r"(?s)several.*--config 2d \(folds: 0, 1\).*3d_fullres"):
        load_model(tmp_path, device=CPU)
    assert load_model(tmp_path, configuration="2d", device=CPU).configuration.name == "2d"
    save_model(tmp_path / "b", tiny_plan(tiny_configuration("2d")))
    with pytest.raises(ModelError, match=rf"(?s)-m {tmp_path / 'a'}.*-m {tmp_path / 'b'}"):
        load_model(tmp_path, configuration="2d", device=CPU)
    assert load_model(tmp_path / "b", device=CPU).folder == tmp_path / "b"


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no trained model") as caught:
        load_model(tmp_path, device=CPU)
    assert "selfseg train" in caught.value.remedy
    (tmp_path / "nnunet").mkdir()
    (tmp_path / "nnunet" / "plans.json").write_text("{}")
    with pytest.raises(ModelError, match="no trained model") as caught:
        load_model(tmp_path / "nnunet", device=CPU)
    assert f"selfseg import {tmp_path / 'nnunet'}" in caught.value.remedy
    save_model(tmp_path, tiny_plan())
    with pytest.raises(ModelError, match=r"(?s)no trained model 2d.*--config 3d_fullres"):
        load_model(tmp_path, configuration="2d", device=CPU)
    with pytest.raises(ModelError, match=r"(?s)with folds 0,3.*folds: 0"):
        load_model(tmp_path, folds=("0", "3"), device=CPU)


def test_unfinished_folds_do_not_count(tmp_path: Path) -> None:
    dataset = save_model(tmp_path, tiny_plan(), folds=("0", "1"))
    dataset.fold("3d_fullres", "1").weights.unlink()
    assert find_models(tmp_path)[0].folds == ("0",)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    dataset = save_model(tmp_path, tiny_plan())
    path = dataset.fold("3d_fullres", "0").weights
    weights = dict(load_weights(path))
    first, second, *_ = weights
    weights["surplus"] = weights.pop(first)
    weights[second] = torch.zeros(7)
    save_weights(weights, path)
    with pytest.raises(ModelError) as caught:
        load_model(tmp_path, device=CPU)
    for finding in (str(path), f"missing {first}", "unexpected surplus", f"{second} is (7,)"):
        assert finding in caught.value.message


def test_a_plan_edited_after_training_is_refused(tmp_path: Path) -> None:
    plan = tiny_plan()
    dataset = save_model(tmp_path, plan)
    (configuration,) = plan.configurations
    for change in (
        {"network": configuration.network.model_copy(update={"features": (4, 16)})},
        {"preprocessing": configuration.preprocessing.model_copy(update={"axes": (0, 2, 1)})},
    ):
        edited = configuration.model_copy(update=change)
        serial.save(plan.model_copy(update={"configurations": (edited,)}), dataset.plan)
        with pytest.raises(ModelError, match="trained with another plan"):
            load_model(tmp_path, device=CPU)


def test_weights_of_a_fine_stage_belong_to_its_crops() -> None:
    """Else a fold trained on the whole image, and its scores, would stand for one on crops."""
    (whole,) = tiny_plan().configurations
    assert weights_digest(tiny_plan(), whole) == "51d9f307072ac805"  # as before there were crops
    digests = {
        weights_digest(tiny_plan(), whole.model_copy(update={"crop": crop}))
        for crop in (None, Crop(margin_mm=5.0), Crop(margin_mm=6.0))
    }
    assert len(digests) == 3


def test_edits_that_weights_do_not_depend_on_are_allowed(tmp_path: Path) -> None:
    plan = tiny_plan()
    dataset = save_model(tmp_path, plan)
    (configuration,) = plan.configurations
    inference = configuration.inference.model_copy(update={"step": 0.7})
    edited = configuration.model_copy(update={"inference": inference, "batch": 9})
    changed = plan.model_copy(update={"configurations": (edited,), "dataset": "other"})
    serial.save(changed, dataset.plan)
    assert load_model(tmp_path, device=CPU).configuration.inference.step == 0.7
    assert weights_digest(changed, edited) == weights_digest(plan, configuration)


def test_a_broken_plan_is_named(tmp_path: Path) -> None:
    dataset = save_model(tmp_path, tiny_plan())
    dataset.plan.write_text("{")
    with pytest.raises(RecordError, match=r"plan\.json"):
        load_model(tmp_path, device=CPU)


def test_only_axes_that_every_fold_was_trained_with_are_mirrored(tmp_path: Path) -> None:
    dataset = save_model(tmp_path, tiny_plan(), folds=("0", "1"))
    assert load_model(tmp_path, device=CPU).mirror_axes == (0, 1, 2)
    path = dataset.fold("3d_fullres", "1").description
    trained = serial.load(TrainedFold, path)
    serial.save(trained.model_copy(update={"mirror_axes": (2,)}), path)
    assert load_model(tmp_path, device=CPU).mirror_axes == (2,)
    assert load_model(tmp_path, folds=("0",), device=CPU).mirror_axes == (0, 1, 2)


def test_the_previous_stage_of_an_arm_is_the_data_set_s(tmp_path: Path) -> None:
    home = save_model(tmp_path / "phantom", tiny_plan(tiny_configuration("3d_lowres")))
    cascade = tiny_configuration().model_copy(update={"previous_stage": "3d_lowres"})
    arm = home.race("3d_fullres", "key").arm("plain+top k", "3d_fullres").path

    def of(folder: Path) -> Model:
        return Model(folder, tiny_plan(cascade), cascade, ("0",), (), nn.Identity(), CPU)

    previous = load_previous(of(arm))
    assert (previous.folder, previous.configuration.name) == (home.path, "3d_lowres")
    with pytest.raises(ModelError, match="needs the segmentation of 3d_lowres"):
        load_previous(of(tmp_path / "elsewhere" / "else" / "folder"))


def test_a_folds_folder_points_to_the_model(tmp_path: Path) -> None:
    dataset = save_model(tmp_path / "model", tiny_plan())
    with pytest.raises(ModelError) as error:
        load_model(dataset.fold("3d_fullres", "0").path, device=torch.device("cpu"))
    assert f"-m {dataset.path}" in error.value.remedy
