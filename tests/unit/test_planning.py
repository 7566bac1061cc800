"""Finding planners, editing and checking plans, plans as files, and the memory budget."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest
from plannerfacts import make_dataset, make_fingerprint

from selfseg import budget, planning
from selfseg.errors import PlanError, PlannerError, RecordError, SelfSegError
from selfseg.plan_checks import check_plan
from selfseg.plan_edits import edit_plan
from selfseg.records import serial
from selfseg.records.network import UNet
from selfseg.records.plan import Budget, Plan

CPU = Budget(memory_gib=8.0, device="cpu")
CUDA = Budget(memory_gib=8.0, device="cuda")


@pytest.fixture(scope="module")
def plan() -> Plan:
    facts = make_fingerprint([((1.0, 1.0, 1.0), (36, 50, 35))] * 40)
    return planning.make_plan(make_dataset(40), facts, CPU)


def test_installed_planner_is_found(plan: Plan) -> None:
    planner = planning.find_planner("default")
    assert (planner.name, plan.planner) == ("default", "default")
    assert plan.planner_version == planner.version
    facts = make_fingerprint([((1.0, 1.0, 1.0), (36, 50, 35))] * 40)
    assert len(planning.make_splits(make_dataset(40), facts).folds) == 5


def test_missing_planner_lists_what_is_installed() -> None:
    with pytest.raises(PlannerError, match=r"no planner named 'best'; installed: .*default"):
        planning.find_planner("best")


class Owner:
    """As much of a distribution as the message needs."""

    def __init__(self, name: str) -> None:
        self.name = name


def entry(value: str, owner: str = "plug-in") -> EntryPoint:
    made = EntryPoint(name="mine", value=value, group=planning.GROUP)
    vars(made).update(dist=Owner(owner))
    return made


def install(monkeypatch: pytest.MonkeyPatch, *entries: EntryPoint) -> None:
    monkeypatch.setattr(planning, "entry_points", lambda group: EntryPoints(entries))


def test_planner_of_two_packages_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, entry("one:Planner", "first"), entry("two:Planner", "second"))
    with pytest.raises(PlannerError, match=r"several packages: first \(one.*second \(two") as error:
        planning.find_planner("mine")
    assert "Uninstall" in error.value.remedy


def test_planner_listed_twice_by_one_package_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    value = "selfseg.planners.default:DefaultPlanner"
    install(monkeypatch, entry(value), entry(value))
    assert planning.find_planner("mine").name == "default"


def module_with(monkeypatch: pytest.MonkeyPatch, **content: Any) -> None:
    module = ModuleType("broken_plug_in")
    vars(module).update(content)
    monkeypatch.setitem(sys.modules, "broken_plug_in", module)


def explode() -> NoReturn:
    raise ZeroDivisionError("oh")


@pytest.mark.parametrize(
    ("value", "finding"),
    [
        ("no_such_module_at_all:Planner", "ModuleNotFoundError"),
        ("broken_plug_in:Absent", "AttributeError"),
        ("broken_plug_in:explode", r"ZeroDivisionError\('oh'\)"),
    ],
)
def test_broken_planner_is_named(
    monkeypatch: pytest.MonkeyPatch, value: str, finding: str
) -> None:  # fmt: skip
    module_with(monkeypatch, explode=explode)
    install(monkeypatch, entry(value, "shaky"))
    with pytest.raises(PlannerError, match=f"'mine' of shaky cannot be loaded: .*{finding}"):
        planning.find_planner("mine")


def test_object_that_is_no_planner_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module_with(monkeypatch, Half=type("Half", (), {"name": "half", "version": "1"}))
    install(monkeypatch, entry("broken_plug_in:Half"))
    with pytest.raises(PlannerError, match="lacks name, version, plan, split or memory_gib"):
        planning.find_planner("mine")


def batch_of(plan: Plan, index: int = 1) -> int:
    return plan.configurations[index].batch


def test_edit_by_name_and_by_index(plan: Plan) -> None:
    assert plan.configurations[1].name == "3d_fullres"
    for path in ("configurations.3d_fullres.batch", "configurations.1.batch"):
        edited = edit_plan(plan, [f"{path}=4"])
        assert batch_of(edited) == 4
        assert batch_of(edited, 0) == batch_of(plan, 0)
        assert batch_of(plan) == 2


def test_edit_json_and_text(plan: Plan) -> None:
    edited = edit_plan(
        plan,
        [
            "configurations.3d_fullres.patch=[32, 32, 32]",
            "configurations.3d_fullres.network.deep_supervision=false",
            "configurations.3d_fullres.optimization.recipe.optimizer.learning_rate=0.02",
            "dataset=other name",
            "configurations.3d_fullres.preprocessing.normalization.0={\"kind\": \"min_max\"}",
            "configurations.2d.loss.terms.1.weight = 0.5",
        ],
    )  # fmt: skip
    full = edited.configurations[1]
    assert full.patch == (32, 32, 32)
    assert isinstance(full.network, UNet)
    assert not full.network.deep_supervision
    assert full.optimization.recipe.optimizer.learning_rate == 0.02
    assert edited.dataset == "other name"
    assert full.preprocessing.normalization[0].kind == "min_max"
    assert edited.configurations[0].loss.terms[1].weight == 0.5
    check_plan(edited)


def test_edits_are_recorded_as_the_users(plan: Plan) -> None:
    path = "configurations.3d_fullres.batch"
    edited = edit_plan(plan, [f"{path}=4", f"{path}=8"])
    assert [d for d in edited.decisions if d.subject != path] == [
        d for d in plan.decisions if d.subject != path
    ]
    (found,) = (d for d in edited.decisions if d.subject == path)
    assert (found.rule, found.value, found.alternatives) == ("user", "8", ("4",))
    assert found.because == "set by the user with --set, in place of 4 (rule user)"
    (first,) = (d for d in edit_plan(plan, [f"{path}=4"]).decisions if d.rule == "user")
    assert (first.value, first.alternatives) == ("4", ("2",))
    assert first.because == "set by the user with --set, in place of 2 (rule batch)"


@pytest.mark.parametrize("item", ["3d_fullres", "1"])
def test_no_decision_contradicts_what_the_user_set(plan: Plan, item: str) -> None:
    """One on parts of the value goes, one on the whole stays and says so; others do not change."""
    path = "configurations.3d_fullres.network"

    def about(plan: Plan, subject: str) -> list[tuple[str, str]]:
        return [(d.rule, d.because) for d in plan.decisions if d.subject == subject]

    former = dict(about(plan, path))
    assert "topology" in former
    features = edit_plan(plan, [f"configurations.{item}.network.features=[4, 8, 16, 32]"])
    assert [rule for rule, _ in about(features, f"{path}.features")] == ["user"]
    because = f"{former['topology']}; but features: see rule user"
    assert about(features, path) == [("topology", because)]
    setting = f"configurations.{item}.network.features=[4, 8, 16, 24]"
    again = edit_plan(features, [setting, setting])
    assert about(again, path) == [("topology", because)]
    # a verdict on the configuration is none on its values, nor one on a name that begins alike
    for same in ("configurations.3d_fullres", "configurations.2d.network"):
        assert about(features, same) == about(plan, same) != []
    network = plan.configurations[1].network.model_dump_json()
    whole = edit_plan(features, [f"configurations.{item}.network={network}"])
    ours = [d for d in whole.decisions if d.subject.startswith(path)]
    assert [(d.rule, d.subject) for d in ours] == [("user", path)]
    assert "[4, 8, 16, 32] (rule user)" in ours[0].because


def test_memory_follows_an_edited_batch_and_patch(
    plan: Plan, caplog: pytest.LogCaptureFixture
) -> None:
    path = "configurations.3d_fullres"
    full = plan.configurations[1]

    def memory(*settings: str) -> float:
        edited = edit_plan(plan, [f"{path}.{setting}" for setting in settings])
        updated = planning.update_memory(edited, plan)
        assert updated.configurations[0] == plan.configurations[0]
        return updated.configurations[1].memory_gib

    assert memory("loss.terms.0.weight=0.5") == full.memory_gib
    assert memory("patch=[32, 48, 32]") < full.memory_gib
    assert full.memory_gib < memory("batch=4") < 2 * full.memory_gib
    assert memory("batch=4", "memory_gib=1.5") == 1.5
    edited = edit_plan(plan, [f"{path}.batch=4"])
    reduced = planning.update_memory(edited, plan).configurations[1].memory_bfloat16_gib
    assert full.memory_bfloat16_gib is not None
    assert reduced is not None
    assert full.memory_bfloat16_gib < reduced < memory("batch=4")
    assert not caplog.records
    assert memory("batch=400") > plan.budget.memory_gib
    assert "more than the 8.0 GiB planned for" in caplog.text


@pytest.mark.parametrize("of", [CPU, CUDA])
def test_estimates_of_an_edited_plan_are_told_as_those_of_a_new_one(of: Budget) -> None:
    """To as many digits, and for bfloat16 where a plan has that."""
    facts = make_fingerprint([((1.0, 1.0, 1.0), (36, 50, 35))] * 40)
    plan = planning.make_plan(make_dataset(40), facts, of)
    path = "configurations.3d_fullres.batch"
    batch = plan.configurations[1].batch
    edited = planning.update_memory(edit_plan(plan, [f"{path}={batch + 1}"]), plan)
    assert edited.configurations[1].memory_gib > plan.configurations[1].memory_gib
    again = planning.update_memory(edit_plan(edited, [f"{path}={batch}"]), edited)
    assert again.configurations == plan.configurations
    assert (again.configurations[1].memory_bfloat16_gib is None) is (of.device == "cuda")


@pytest.mark.parametrize(
    ("setting", "message", "there"),
    [
        ("batch=4", "no 'batch' in the plan", "configurations"),
        ("configurations.3d.batch=4", "no '3d' in configurations", "2d, 3d_fullres"),
        ("configurations.7.batch=4", "no '7' in configurations", "2d, 3d_fullres"),
        ("configurations.2d.bach=4", "no 'bach' in configurations.2d", "batch"),
        ("configurations.2d.batch.x=4", "no 'x' in configurations.2d.batch", "a single value"),
        ("configurations.2d.patch.2=4", "no '2' in configurations.2d.patch", "0, 1"),
    ],
)
def test_unknown_place_lists_what_is_there(
    plan: Plan, setting: str, message: str, there: str
) -> None:
    with pytest.raises(PlanError) as error:
        edit_plan(plan, [setting])
    assert message in error.value.message
    assert there in error.value.remedy


@pytest.mark.parametrize("setting", ["configurations.2d.batch", "=4", ""])
def test_setting_without_a_path_or_value(plan: Plan, setting: str) -> None:
    with pytest.raises(PlanError, match="no '='") as error:
        edit_plan(plan, [setting])
    assert "PATH=VALUE" in error.value.remedy


@pytest.mark.parametrize(
    ("setting", "place"),
    [
        ("configurations.2d.batch=many", "$.configurations[0].batch"),
        ("configurations.2d.batch=2.5", "$.configurations[0].batch"),
        ("configurations.2d.patch=64", "$.configurations[0].patch"),
        ("configurations.2d.name=4d", "$.configurations[0].name"),
        ("configurations.2d.network.kind=vit", "$.configurations[0].network"),
        ("budget.device=tpu", "$.budget.device"),
        ("budget.memory_gib=NaN", "$.budget.memory_gib"),
    ],
)
def test_value_of_a_wrong_kind_names_the_place(plan: Plan, setting: str, place: str) -> None:
    with pytest.raises(PlanError) as error:
        edit_plan(plan, [setting])
    assert place in error.value.message
    assert f"--set {setting}" in error.value.message


FULL = "configurations.3d_fullres"


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (["batch=0"], "batch: 0, must be at least 1"),
        (["patch=[64]"], "patch: 1 axes, must be 2 or 3"),
        (["patch=[40, 50, 40]"], "patch: [40, 50, 40] must be multiples of the total stride"),
        (["patch=[0, 56, 40]"], "patch: [0, 56, 40] must be multiples"),
        (["preprocessing.normalization=[]"], "preprocessing.normalization: 0 for 1 channel"),
        (["preprocessing.spacing_mm=[1.0, 0.0, 1.0]"], "spacing_mm: must be positive"),
        (["preprocessing.axes=[0, 0, 2]"], "preprocessing.axes: [0, 0, 2] is no order"),
        (["augmentation.mirror_axes=[3]"], "mirror_axes: [0, 1, 2, 3], there are 0 to 2"),
        (["inference.mirror_axes=[-1]"], "mirror_axes: [-1, 0, 1, 2]"),
        (["inference.step=0.0"], "inference.step: 0.0, must be in (0, 1]"),
        (["inference.step=1.5"], "inference.step: 1.5"),
        (["loss.terms=[]"], "loss.terms: none"),
        (["network.features=[8, 16]"], "network: 2 features, but 4 kernels, 4 strides"),
        (["network.convs_decoder=[2]"], "2 decoder convolutions + 1; must agree"),
        (["network.features=[8, 16, 0, 32]"], "features, blocks and convolutions must be at least"),
        (["network.kernels.0=[3, 3]"], "kernels and strides must have 3 axes"),
        (["patch=[40, 56]", "augmentation.mirror_axes=[]", "inference.mirror_axes=[]"],
         "kernels and strides must have 2 axes"),
    ],
)  # fmt: skip
def test_each_contradiction_is_a_complaint(
    plan: Plan, settings: list[str], complaint: str
) -> None:  # fmt: skip
    edited = edit_plan(plan, [f"{FULL}.{setting}" for setting in settings])
    with pytest.raises(PlanError) as error:
        check_plan(edited)
    assert f"{FULL}." in error.value.message
    assert complaint in error.value.message


def test_all_complaints_come_at_once(plan: Plan) -> None:
    edited = edit_plan(
        plan, [f"{FULL}.batch=0", f"{FULL}.inference.step=2.0", "configurations.2d.batch=-1"]
    )
    with pytest.raises(PlanError) as error:
        check_plan(edited)
    for text in (f"{FULL}.batch: 0", f"{FULL}.inference.step: 2.0", "configurations.2d.batch: -1"):
        assert text in error.value.message


def test_two_configurations_of_one_name(plan: Plan) -> None:
    doubled = plan.model_copy(update={"configurations": (plan.configurations[0],) * 2})
    with pytest.raises(PlanError, match="names are not unique: 2d, 2d"):
        check_plan(doubled)


def test_plan_as_made_has_no_complaint(plan: Plan) -> None:
    check_plan(plan)


def test_plan_survives_its_file(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    serial.save(plan, path)
    loaded = serial.load(Plan, path)
    assert loaded == plan
    assert serial.digest(loaded) == serial.digest(plan)


def rename_batch(content: Any) -> None:
    content["configurations"][0]["bacth"] = content["configurations"][0].pop("batch")


def text_batch(content: Any) -> None:
    content["configurations"][0]["batch"] = "2"


def unknown_network(content: Any) -> None:
    content["configurations"][1]["network"]["kind"] = "transformer"


def foreign_version(content: Any) -> None:
    content["schema_version"] = 2


@pytest.mark.parametrize(
    ("damage", "places"),
    [
        (rename_batch, ["$.configurations[0].bacth", "$.configurations[0].batch"]),
        (text_batch, ["$.configurations[0].batch"]),
        (unknown_network, ["$.configurations[1].network", "residual_unet"]),
        (foreign_version, ["$.schema_version"]),
    ],
)
def test_damaged_plan_names_the_place(
    plan: Plan, tmp_path: Path, damage: Callable[[Any], None], places: list[str]
) -> None:
    content = plan.model_dump(mode="json")
    damage(content)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(RecordError) as error:
        serial.load(Plan, path)
    assert str(path) in error.value.message
    for place in places:
        assert place in error.value.message


def test_budget_of_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert budget.detect_budget(None, "cpu") == CPU
    assert budget.detect_budget("3GB", "cpu") == Budget(memory_gib=3.0, device="cpu")
    monkeypatch.setattr(budget, "_has_driver", lambda: False)
    assert budget.detect_budget(None, "auto") == CPU


def test_budget_for_another_machine_needs_no_gpu_here() -> None:
    assert budget.detect_budget("80GB", "cuda:1") == Budget(memory_gib=80.0, device="cuda")


class Card:
    """What torch tells of a GPU."""

    def __init__(self, gib: float) -> None:
        self.total_memory = int(gib * 2**30)


@pytest.mark.parametrize(("card", "planned"), [(11.76, 9.4), (23.6, 18.9), (139.0, 24.0)])
def test_budget_of_a_gpu_is_four_fifths_of_its_memory_up_to_24(
    monkeypatch: pytest.MonkeyPatch, card: float, planned: float
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Card(card))
    monkeypatch.setattr(budget, "_has_driver", lambda: True)
    for device in ("cuda", "auto"):
        assert budget.detect_budget(None, device) == Budget(memory_gib=planned, device="cuda")
    assert budget.detect_budget("40GB", "auto").memory_gib == 40.0


def test_budget_of_an_absent_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(budget, "_has_driver", lambda: True)
    assert budget.detect_budget(None, "auto") == CPU
    with pytest.raises(SelfSegError, match="sees no CUDA device") as error:
        budget.detect_budget(None, "cuda")
    assert "--memory" in error.value.remedy
