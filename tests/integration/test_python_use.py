"""The Python that the page on prediction shows does what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from commandline import write_tiny_dataset

pytestmark = pytest.mark.slow

PAGE = Path(__file__).resolve().parents[2] / "docs" / "prediction.md"
SHORTER = {
    'device="cpu"': 'device="cpu", workers=0, settings=('
    '"configurations.3d_fullres.network.features=[4,8,16]",)',
    "time_s=900": "epochs=1, steps_per_epoch=2, workers=0",
    "model=model": "model=model, tta=False",
    "IMAGES": "DATASET/imagesTs",
}


def test_python_of_the_page_runs(tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for shown, shorter in SHORTER.items():
        assert block.count(shown) == 1
        block = block.replace(shown, shorter)
    data = write_tiny_dataset(tmp_path / "DATASET", train=3, test=2)
    (tmp_path / "program.py").write_text(block, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    names = sorted(path.name.replace("_0000", "") for path in (data / "imagesTs").iterdir())
    cases = tuple(name.removesuffix(".nii.gz") for name in names)
    assert f"2 {cases} ()" in done.stdout
    assert sorted(path.name for path in (tmp_path / "OUT").glob("[!.]*")) == names
