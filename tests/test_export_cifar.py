"""A student that only distill has, a CIFAR ResNet, from its training to a file that others use."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image

COMMON = [
    "train.precision=fp32",
    "student.model=resnet8",
    "student.arguments={shortcut: padding}",
    "teacher=null",
    "losses.kd=null",
    "control=false",
    "train.max_steps=4",
]


@pytest.fixture
def run(distill) -> Path:
    assert distill("train", "--recipe", "smoke", *COMMON)[0] == 0
    Image.linear_gradient("L").convert("RGB").save("picture.png")
    return Path("runs/smoke-seed0")


def scores(distill, *words: str) -> dict[str, float]:
    code, out, err = distill("predict", *words, "picture.png", "--json", "--top", "4")
    assert code == 0, err
    return {one["name"]: one["probability"] for one in json.loads(out)["pictures"][0]["classes"]}


def test_student_answers_the_same_in_every_form_that_can_carry_it(distill, run, monkeypatch):
    before = scores(distill, str(run))
    for to, trust in (("safetensors", []), ("torch-export", ["--trust"]), ("onnx", [])):
        code, _, err = distill("export", str(run), "--to", to, "-o", to)
        assert code == 0, err
        assert scores(distill, to, *trust) == pytest.approx(before, abs=1e-5)
    code, _, err = distill("export", str(run), "--to", "timm", "-o", "timm")
    assert code == 2
    assert "resnet8 is a network of distill for pictures of 32 px, which timm does not have: take --to safetensors" in err
    assert not Path("timm").exists()

    card = Path("safetensors/README.md").read_text()
    assert "`distill predict FOLDER picture.png` does the same." in card
    Path("picture.png").rename("safetensors/picture.png")
    monkeypatch.chdir("safetensors")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(re.search(r"```python\n(.*?)```", card, re.DOTALL)[1], {})
    assert said.getvalue().strip() == max(before, key=before.get)
