"""Datasets read in place: both layouts, mixed endings, groups, and every complaint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selfseg.errors import DatasetError
from selfseg.io.formats import read_dataset
from selfseg.io.unlabeled import list_cases
from selfseg.records.dataset import Label, Region

DESCRIPTION: dict[str, object] = {
    "name": "demo",
    "channel_names": {"0": "T1", "1": "T2"},
    "labels": {"background": 0, "tumor": 2, "edema": 1},
    "file_ending": ".nii.gz",
}

NESTED: dict[str, object] = {
    "labels": {"background": 0, "whole": [1, 2], "core": 2},
    "regions_class_order": [1, 2],
}


def touch(path: Path, content: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def make(
    root: Path,
    *,
    image_files: list[str] | None = None,
    label_files: list[str] | None = None,
    **changes: object,
) -> Path:
    """Write a dataset of two cases with two channels; a change to None drops the key."""
    changed = {key: value for key, value in {**DESCRIPTION, **changes}.items() if value is not None}
    touch(root / "dataset.json", json.dumps(changed))
    default = [f"{case}_000{channel}.nii.gz" for case in "ab" for channel in range(2)]
    for name in default if image_files is None else image_files:
        touch(root / "imagesTr" / name)
    for name in ["a.nii.gz", "b.nii.gz"] if label_files is None else label_files:
        touch(root / "labelsTr" / name)
    return root


def complaints(root: Path, **keywords: set[str]) -> str:
    with pytest.raises(DatasetError) as caught:
        read_dataset(root, **keywords)
    assert caught.value.remedy
    return "\n".join(caught.value.complaints)


def test_nnunet_layout(tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr" / "._a_0000.nii.gz")
    touch(tmp_path / "imagesTr" / "notes.txt")
    dataset = read_dataset(make(tmp_path))
    assert (dataset.name, dataset.layout, dataset.root) == ("demo", "nnunet", str(tmp_path))
    assert dataset.channels == ("T1", "T2")
    assert dataset.labels == (Label(name="edema", value=1), Label(name="tumor", value=2))
    assert [case.id for case in dataset.cases] == ["a", "b"]
    first = dataset.cases[0]
    assert [file.path for file in first.images] == [
        "imagesTr/a_0000.nii.gz",
        "imagesTr/a_0001.nii.gz",
    ]
    assert first.reference is not None
    assert first.reference.path == "labelsTr/a.nii.gz"
    facts = (tmp_path / "labelsTr" / "a.nii.gz").stat()
    assert (first.reference.size, first.reference.modified_ns) == (1, facts.st_mtime_ns)
    assert first.reference.digest == ""
    assert first.group is None


def test_decathlon_layout(tmp_path: Path) -> None:
    for name in ("p1", "p2"):
        touch(tmp_path / "imagesTr" / f"{name}.nii.gz")
        touch(tmp_path / "labelsTr" / f"{name}.nii.gz")
    description: dict[str, object] = {
        "modality": {"0": "FLAIR", "1": "T1w"},
        "labels": {"0": "background", "1": "edema", "2": "core"},
        "training": [
            {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
            for name in ("p2", "p1")
        ],
        "test": ["./imagesTs/p3.nii.gz"],
    }
    touch(tmp_path / "dataset.json", json.dumps(description))
    dataset = read_dataset(tmp_path)
    assert (dataset.layout, dataset.name) == ("msd", tmp_path.name)
    assert [case.id for case in dataset.cases] == ["p1", "p2"]
    assert dataset.cases[0].images[0].path == "imagesTr/p1.nii.gz"
    assert [label.name for label in dataset.labels] == ["edema", "core"]
    description["training"] = [
        {"image": "./imagesTr/p9.nii.gz", "label": "./labelsTr/p1.nii.gz"},
        7,
    ]
    touch(tmp_path / "dataset.json", json.dumps(description))
    text = complaints(tmp_path)
    assert "p9.nii.gz does not exist" in text
    assert "training[1] must be" in text


@pytest.mark.parametrize("ending", [{"image": ".jpg", "label": ".png"}, None, {"label": "PNG"}])
def test_one_color_file_holds_all_channels(tmp_path: Path, ending: object) -> None:
    root = make(
        tmp_path,
        image_files=["a_0000.jpg", "b_0000.jpg"],
        label_files=["a.png", "b.png"],
        file_ending=ending,
        channel_names={"0": "R", "1": "G", "2": "B"},
    )
    dataset = read_dataset(root)
    assert [len(case.images) for case in dataset.cases] == [1, 1]


def test_plain_names_are_cases_with_all_channels(tmp_path: Path) -> None:
    root = make(
        tmp_path,
        image_files=["a.nii.gz", "x_2021.nii.gz"],
        label_files=["a.nii.gz", "x_2021.nii.gz"],
    )
    assert [case.id for case in read_dataset(root).cases] == ["a", "x_2021"]


def test_listed_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    monkeypatch.setenv("ELSEWHERE", str(elsewhere))
    listed = {
        "one": {
            "images": ["data/t1.mha", "$ELSEWHERE/t2.nii.gz"],
            "label": "data/seg.nrrd",
        }
    }
    root = make(tmp_path / "set", image_files=[], label_files=[], dataset=listed, file_ending=None)
    for path in (root / "data/t1.mha", root / "data/seg.nrrd", elsewhere / "t2.nii.gz"):
        touch(path)
    (case,) = read_dataset(root).cases
    assert case.id == "one"
    assert [file.path for file in case.images] == ["data/t1.mha", str(elsewhere / "t2.nii.gz")]
    assert "'a/b' must be CASE" in complaints(make(root, dataset={"a/b": listed["one"]}))


def test_groups(tmp_path: Path) -> None:
    root = make(tmp_path)
    touch(root / "groups.csv", "\ufeffcase,group\na,p1\nb,p1\ntest_case,p7\n")
    assert [case.group for case in read_dataset(root).cases] == ["p1", "p1"]
    touch(root / "groups.csv", "case,group\na,p1\na,p2\n")
    text = complaints(root)
    assert "line 3 puts case a into group p2, but it is in p1" in text
    assert "case b: no group in groups.csv" in text
    touch(root / "groups.csv", "id;patient\na;p1\n")
    assert "the first line must be 'case,group'" in complaints(root)
    root = make(tmp_path, group={"a": "p1", "b": "p2"})
    assert [case.group for case in read_dataset(root).cases] == ["p1", "p2"]
    assert "'group' must map" in complaints(make(tmp_path, group=["a"]))


def test_only_keeps_a_subset_and_knows_its_cases(tmp_path: Path) -> None:
    root = make(tmp_path, image_files=["a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz"])
    assert [case.id for case in read_dataset(root, only={"a"}).cases] == ["a"]
    assert "case c: asked for, but not in the dataset" in complaints(root, only={"a", "c"})


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        (
            {"channel_names": {"T1": 0, "T2": 1}},
            r'wrong way round (name to number); write {"0": "T',
        ),
        ({"channel_names": {"0": "a", "2": "b"}}, "must number the channels 0, 1, … without gaps"),
        ({"channel_names": {"0": "a", "1": 5}}, "must number the channels"),
        ({"channel_names": None}, "needs 'channel_names'"),
        ({"channel_names": ["CT"]}, "needs 'channel_names'"),
        ({"labels": None}, "needs 'labels'"),
        ({"labels": {"background": 0}}, "no label besides background"),
        ({"labels": {"background": 1, "x": 2}}, "background must be 0"),
        ({"labels": {"background": 0, "all": [1, 1]}}, "is a region of the values [1, 1]"),
        ({"labels": {"background": 0, "all": [0, 1]}}, "is a region of the values [0, 1]"),
        ({"labels": {"background": 0, "all": []}}, "label 'all' has value []"),
        ({"labels": {"background": 0, "all": [1, "x"]}}, "label 'all' has value [1, 'x']"),
        ({"labels": {"background": [0, 1], "x": 2}}, "label 'background' is a region"),
        ({"labels": {"background": 0, "x": 1, "ignore": 1}}, "'x' has the value 1, which 'ignore'"),
        ({"labels": {"background": 0, "x": 1, "ignore": 0}}, "label 'ignore' has value 0"),
        ({"labels": {"background": 0, "x": 1, "ignore": [2, 3]}}, "'ignore' has value [2, 3]"),
        ({"labels": {"background": 0, "ignore": 3}}, "no label besides background"),
        (NESTED | {"regions_class_order": None}, "'regions_class_order' is missing; with regions"),
        (NESTED | {"regions_class_order": [1]}, "'regions_class_order' is [1]; with regions"),
        (NESTED | {"regions_class_order": [1, "x"]}, "'regions_class_order' is [1, \"x\"]"),
        (NESTED | {"regions_class_order": 1}, "one value for each of whole, core, in this order"),
        (
            NESTED | {"regions_class_order": [1, 7]},
            "gives region 'core' the value 7, which is none",
        ),
        (NESTED | {"regions_class_order": [2, 2]}, "gives the value 2 to several regions"),
        (NESTED | {"labels": {"a": [1, 2], "b": [2, 1]}}, "same value (2, 1) as 'a'"),
        (
            NESTED | {"labels": {"whole": [1, 2], "core": [2], "ignore": 2}},
            "label 'core' has the value 2, which 'ignore' marks as not annotated",
        ),
        ({"labels": {"background": 0, "x": 1, "y": 1}}, "same value (1) as 'x'"),
        ({"labels": {"background": 0, "x": -1}}, "label 'x' has value -1"),
        ({"labels": {"background": 0, "x": 1.5}}, "label 'x' has value 1.5"),
        ({"labels": {"background": 0, "x": True}}, "label 'x' has value True"),
        ({"labels": {"0": "background", "1": "x", "2": "x"}}, "label 'x' stands twice"),
        ({"file_ending": ".dcm"}, "'file_ending' '.dcm' is not supported; supported: .nii.gz"),
        ({"file_ending": {"images": ".png"}}, "unknown keys ['images']"),
        ({"file_ending": ".png"}, "no files with a .png ending (there are: .nii.gz)"),
        ({"name": "../evil"}, "cannot be a folder's name"),
        ({"name": ".."}, "cannot be a folder's name"),
        ({"dataset": 3}, "'dataset' entry"),
        ({"training": 3}, "training[0] must be"),
    ],
)
def test_findings_in_the_description(
    tmp_path: Path, changes: dict[str, object], finding: str
) -> None:
    assert finding in complaints(make(tmp_path, **changes))  # type: ignore[arg-type]


def test_regions_and_ignore_become_targets(tmp_path: Path) -> None:
    labels = {"background": 0, "whole": [1, 2, 5], "core": [5, 2], "center": 5, "ignore": 9}
    dataset = read_dataset(make(tmp_path, labels=labels, regions_class_order=[1, 2, 5]))
    assert dataset.labels == (
        Label(name="value 1", value=1),
        Label(name="value 2", value=2),
        Label(name="center", value=5),
    )
    assert dataset.regions == (
        Region(name="whole", values=(1, 2, 5), value=1),
        Region(name="core", values=(5, 2), value=2),
        Region(name="center", values=(5,), value=5),
    )
    assert dataset.targets.members == ((1, 2, 3), (3, 2), (3,))
    assert (dataset.ignore, dataset.targets.ignore_index, dataset.targets.outputs) == (9, 4, 3)


def test_decathlon_may_have_an_ignore_label(tmp_path: Path) -> None:
    labels = {"0": "background", "1": "x", "4": "ignore"}
    dataset = read_dataset(make(tmp_path, labels=labels))
    assert dataset.labels == (Label(name="x", value=1),)
    assert (dataset.ignore, dataset.regions) == (4, ())


def test_background_may_be_missing_and_single_value_lists_are_labels(tmp_path: Path) -> None:
    dataset = read_dataset(make(tmp_path, labels={"x": [5], "void": 0}, file_ending=None))
    assert dataset.labels == (Label(name="x", value=5),)


def test_all_findings_in_the_files_come_at_once(tmp_path: Path) -> None:
    root = make(
        tmp_path,
        image_files=[
            "a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz", "c_0000.nii.gz", "c_0001.nii.gz",
            "d_0000.nii.gz", "d_0001.nii.gz", "d_0002.nii.gz",
        ],
        label_files=["a.nii.gz", "b.nii.gz", "d.nii.gz", "lonely.nii.gz"],
        channel_names={"T1": 0, "T2": 1},
    )  # fmt: skip
    (root / "imagesTr" / "a_0001.nii.gz").write_text("")
    text = complaints(root)
    assert "wrong way round" in text
    assert "a_0001.nii.gz is empty" in text
    assert "case b: 1 of 2 channels (T1, T2): b_0000.nii.gz; add the missing files" in text
    assert "case c: image c_0000.nii.gz without label map; add c to labelsTr" in text
    assert "case d_0002: 1 of 2 channels" in text
    assert "case lonely: label map lonely.nii.gz without images" in text
    assert len(text.splitlines()) == 7


def test_doubled_files_and_keys(tmp_path: Path) -> None:
    root = make(tmp_path, file_ending=None)
    touch(root / "imagesTr" / "a_0001.nrrd")
    touch(root / "labelsTr" / "b.mha")
    description = (root / "dataset.json").read_text()
    touch(root / "dataset.json", description.replace('"T1"', '"T1", "0": "T9"'))
    text = complaints(root)
    assert "second file for channel 1 of case a" in text
    assert "second label map of case b" in text
    assert "key '0' stands twice" in text


def test_missing_folders(tmp_path: Path) -> None:
    touch(tmp_path / "dataset.json", json.dumps(DESCRIPTION))
    text = complaints(tmp_path)
    assert "imagesTr: no files with a .nii.gz ending (the folder does not exist)" in text
    assert "labelsTr: no files" in text


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        (None, "no dataset.json in it"),
        ("{", "cannot be read"),
        ("[]", "not a JSON object"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_unusable_description(tmp_path: Path, content: str | None, finding: str) -> None:
    if content is not None:
        touch(tmp_path / "dataset.json", content)
    with pytest.raises(DatasetError, match=finding):
        read_dataset(tmp_path)
    with pytest.raises(DatasetError, match="no such folder"):
        read_dataset(tmp_path / "nowhere")


def test_cases_to_predict(tmp_path: Path) -> None:
    for name in ("a_0000.nii.gz", "a_0001.nii.gz", "b_0001.nii.gz", "b_0000.nii.gz", "log.csv"):
        touch(tmp_path / name)
    cases = list_cases(tmp_path, 2)
    assert [case.id for case in cases] == ["a", "b"]
    assert [Path(file.path).name for file in cases[1].images] == ["b_0000.nii.gz", "b_0001.nii.gz"]
    assert all(Path(file.path).is_absolute() and file.size == 1 for file in cases[0].images)
    assert cases[0].reference is None
    (one,) = list_cases(tmp_path / "b_0001.nii.gz", 2)
    assert (one.id, len(one.images)) == ("b", 2)
    (tmp_path / "b_0000.nii.gz").unlink()
    touch(tmp_path / "c_0001.nii.gz")
    with pytest.raises(DatasetError, match="incomplete") as caught:
        list_cases(tmp_path, 2)
    assert [line.split(":")[0] for line in caught.value.complaints] == ["case b", "case c"]


def test_a_surplus_channel_is_told_once(tmp_path: Path) -> None:
    for name in ("a_0000", "a_0001", "a_0002", "a_0003", "b_0000"):
        touch(tmp_path / f"{name}.nii.gz")
    with pytest.raises(DatasetError) as caught:
        list_cases(tmp_path, 2)
    surplus, missing = caught.value.complaints
    assert "a: the model has 2 channels, but there is also a_0002.nii.gz, a_0003" in surplus
    assert "case b: 1 of 2 channels" in missing


def test_plain_names_to_predict(tmp_path: Path) -> None:
    for name in ("IM_0048.png", "IM_0059.png", "photo.jpg"):
        touch(tmp_path / name)
    assert [case.id for case in list_cases(tmp_path, 1)] == ["IM_0048", "IM_0059", "photo"]
    assert [case.id for case in list_cases(tmp_path, 3)] == ["IM_0048", "IM_0059", "photo"]
    (one,) = list_cases(tmp_path / "photo.jpg", 3)
    assert (one.id, len(one.images)) == ("photo", 1)


def test_nothing_to_predict(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no images in this folder"):
        list_cases(tmp_path, 1)
    with pytest.raises(DatasetError, match="no such file or folder"):
        list_cases(tmp_path / "x", 1)
    with pytest.raises(DatasetError, match="format not supported"):
        list_cases(touch(tmp_path / "x.txt"), 1)


def test_further_channels_of_a_case_are_no_cases(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"patient_{number:04}.nii.gz").write_bytes(b"x")
    with pytest.raises(DatasetError) as error:
        list_cases(tmp_path, 1)
    complaint = error.value.complaints[0]
    assert "case patient: the model has 1 channel, but there is also" in complaint
    assert "patient_0001.nii.gz, patient_0002.nii.gz" in complaint
    with pytest.raises(DatasetError, match="the model has 2 channels"):
        list_cases(tmp_path / "patient_0000.nii.gz", 2)
    (tmp_path / "other.nii.gz").write_bytes(b"x")
    assert [case.id for case in list_cases(tmp_path / "other.nii.gz", 1)] == ["other"]


@pytest.mark.parametrize(
    ("regions", "order", "expected"),
    [
        ({"core": 2, "whole": [1, 2]}, [2, 1], "'core' lies within 'whole', which stands later"),
        ({"a": [1, 2], "b": [3, 4], "all": [1, 2, 3, 4]}, [1, 3, 2], "'b' lies within 'all'"),
    ],
)
def test_orders_that_lose_a_region_are_refused(
    tmp_path: Path, regions: dict[str, object], order: list[int], expected: str
) -> None:
    labels = {"background": 0, **regions}
    assert expected in complaints(make(tmp_path, labels=labels, regions_class_order=order))


@pytest.mark.parametrize(
    ("regions", "order"),
    [
        ({"whole": [1, 2, 3], "core": [2, 3], "center": 3}, [1, 2, 3]),
        ({"kidney": [1, 2, 3], "masses": [2, 3], "tumor": 2}, [1, 3, 2]),
        ({"a": [1, 3], "b": [2, 3]}, [1, 2]),
        ({"gland": [1, 3], "landmark": [2, 3]}, [1, 3]),  # landmarks always lie in the gland
    ],
)
def test_orders_that_show_every_region_are_fine(
    tmp_path: Path, regions: dict[str, object], order: list[int]
) -> None:
    labels = {"background": 0, **regions}
    dataset = read_dataset(make(tmp_path, labels=labels, regions_class_order=order))
    assert [region.value for region in dataset.regions] == order
