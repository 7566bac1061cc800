"""What a plan nominates from elsewhere: models to start from, pretrained networks."""

from __future__ import annotations

from pathlib import Path

import pytest
from racedata import MODEL, TRANSFER, a_plan, a_trial, an_idea
from selfseg.planners.pretraining import decide_pretraining, nominate_pretrained
from selfseg.planners.transfer import nominate_start
from tinymodel import tiny_configuration

from selfseg.adopting import with_verdict
from selfseg.cli.explain import print_decisions
from selfseg.pretrain import _nominate, with_idea
from selfseg.records import serial
from selfseg.records.ideas import Idea
from selfseg.records.plan import Plan
from selfseg.records.pretraining import Pretrained
from selfseg.records.source import LabelOverlap, SourceFacts, TransferFacts
from selfseg.records.transfer import Start, StartModel
from selfseg.requests import StartRequest
from selfseg.starting import is_planned, planned_as
from selfseg.workspace.dataset import DatasetFolder

PRETRAINED = Start(folder="phantom/pretrained/3d_fullres", configuration="3d_fullres")


def fitted(dice: float) -> Plan:
    """Return a plan that was made to fit a model of this Dice without training."""
    source = SourceFacts(
        model=StartModel(
            folder="/models/other",
            dataset="other",
            configuration="3d_fullres",
            fold="0",
            digest="1",
        ),
        channels=("channel 0",),
        labels=("core", "rim"),
        configuration=tiny_configuration(),
    )
    facts = TransferFacts(
        cases=("a",),
        training_cases=20,
        channels=("channel 0",),
        overlaps=(LabelOverlap(name="core", dice=dice),),
        spacing_ratios=(1.0, 1.0, 1.0),
    )
    return with_verdict(a_plan(an_idea()), MODEL, nominate_start(source, facts, MODEL))


@pytest.mark.parametrize(
    ("dice", "verdict", "names", "used"),
    [
        (0.7, "nominated", ["transfer", "worst"], True),
        (0.3, "doubtful", ["transfer", "worst"], False),
        (0.1, "refused", ["worst"], False),
    ],
)
def test_the_verdict_decides_what_is_used_and_what_is_raced(
    dice: float, verdict: str, names: list[str], *, used: bool,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    plan = fitted(dice)
    assert [idea.name for idea in plan.nominated] == names
    assert plan.configurations[0].start == (MODEL if used else None)
    assert plan.init == MODEL  # what was asked for is known whatever was found
    monkeypatch.setenv("COLUMNS", "2000")
    print_decisions(plan)
    shown = capsys.readouterr().out
    assert f"{verdict}: other 3d_fullres fold 0 (/models/other)" in shown
    assert f"a Dice of {dice:.2f} (core {dice:.2f}; 1 cases; limits 0.2 and 0.7)" in shown
    assert ("start at other 3d_fullres" in shown) is (verdict != "refused")


def made(error: float, digest: str = "1") -> Pretrained:
    configuration = tiny_configuration()
    options, decision = decide_pretraining(configuration)
    return Pretrained(
        model=StartModel(
            folder="x", dataset="phantom", configuration="3d_fullres", fold="pretrained",
            digest=digest,
        ),
        channels=("channel 0",), configuration=configuration, options=options, decision=decision,
        cases=("a", "b"), steps=10, seconds=1.0, seed=0, error=error, error_of_zeros=1.0,
    )  # fmt: skip


def idea_of(digest: str) -> Idea:
    found: Idea | None = nominate_pretrained(made(0.5, digest), PRETRAINED)
    assert found is not None
    return found


def test_a_network_that_has_learned_nothing_is_not_raced() -> None:
    assert nominate_pretrained(made(1.0), PRETRAINED) is None
    idea = idea_of("1")
    assert (idea.name, idea.configuration, idea.start) == ("pretrained", "3d_fullres", PRETRAINED)
    assert "is 0.5000, that of zeros 1.0000" in idea.because


def test_what_a_race_found_belongs_to_the_weights_it_was_found_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tried = idea_of("1").model_copy(update={"trials": (a_trial(accepted=True),)})
    item = tiny_configuration().model_copy(update={"start": PRETRAINED})
    plan = a_plan(tried, TRANSFER).with_configuration(item)
    assert with_idea(plan, idea_of("1")) == plan
    again = with_idea(plan, idea_of("2"))
    assert again.nominated == (idea_of("2"), TRANSFER)
    assert again.configurations[0].start is None
    assert "starts from random weights again" in caplog.text
    # so it is where weights are named
    one, two = (PRETRAINED.model_copy(update={"weights": (digest,)}) for digest in "12")
    named = idea_of("1").model_copy(update={"start": one})
    assert with_idea(plan, named) == plan  # of an earlier version, which did not
    won = with_idea(
        plan.with_configuration(item.model_copy(update={"start": one})),
        idea_of("2").model_copy(update={"start": two}),
    )
    assert won.configurations[0].start is None
    # a start from elsewhere has nothing to do with it
    other = plan.with_configuration(item.model_copy(update={"start": MODEL}))
    assert with_idea(other, idea_of("2")).configurations[0].start == MODEL


def test_the_idea_joins_the_plan_once(tmp_path: Path) -> None:
    folder = DatasetFolder(tmp_path / "phantom")
    serial.save(a_plan(TRANSFER), folder.plan)
    for _ in range(2):
        _nominate(folder, idea_of("1"))
    plan = serial.load(Plan, folder.plan)
    assert plan.nominated == (idea_of("1"), TRANSFER)
    assert len(list(folder.path.glob("plan.former-*.json"))) == 1


def test_models_of_the_workspace_move_with_it(tmp_path: Path) -> None:
    root, outside = tmp_path / "workspace", tmp_path / "model.zip"
    inside = planned_as(StartRequest(root / "other", fold="1"), "2d", root)
    assert inside == Start(folder="other", configuration="2d", fold="1")
    assert planned_as(StartRequest(outside), None, root).folder == str(outside)
    assert is_planned(StartRequest(root / "other", fold="1"), inside, root)
    assert is_planned(StartRequest(root / "other", "2d", "1"), inside, root)
    for request in (
        StartRequest(root / "other"),
        StartRequest(root / "other", "3d_fullres", "1"),
        StartRequest(root / "more", fold="1"),
    ):
        assert not is_planned(request, inside, root)
    assert not is_planned(StartRequest(root / "other"), None, root)
