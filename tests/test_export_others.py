"""`distill export` of students that are not ours, timm's or torchvision's by name: saved by timm in a folder, and a plug-in's own."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

NET = """
    from torch import nn


    class TinyNet(nn.Module):
        def __init__(self, num_classes: int, width: int = 8):
            super().__init__()
            self.conv = nn.Conv2d(3, width, 3, stride=2)
            self.classifier = nn.Linear(width, num_classes)

        def forward(self, images):
            return self.classifier(self.conv(images).relu().mean((2, 3)))
"""


def done(distill, *words: str) -> str:
    code, out, err = distill(*words)
    assert code == 0, err
    return out


def trained(distill, *words: str) -> Path:
    done(distill, "train", "--recipe", "smoke", "teacher=null", "losses.kd=null", "control=false", "train.precision=fp32", *words)
    return Path("runs/smoke-seed0")


def some_picture() -> str:
    from PIL import Image

    Image.linear_gradient("L").convert("RGB").save("picture.png")
    return "picture.png"


def scores(distill, *words: str) -> dict[str, float]:
    found = json.loads(done(distill, "predict", *words, "--json", "--top", "4"))
    return {one["name"]: one["probability"] for one in found["pictures"][0]["classes"]}


@pytest.fixture
def saved() -> str:
    """A network that timm has saved, with an argument of its own."""
    timm.models.save_for_hf(timm.create_model("test_resnet", num_classes=3, drop_rate=0.25), "saved", model_args={"drop_rate": 0.25})
    return "local-dir:saved"


@pytest.mark.parametrize("to", ["safetensors", "timm"])
def test_student_that_timm_has_saved_leaves_by_its_architecture(distill, saved, to):
    run = trained(distill, f"student.model={saved}")
    before = scores(distill, str(run), some_picture())
    done(distill, "export", str(run), "--to", to, "-o", "student")
    Path("saved").rename("gone")
    assert scores(distill, "student", "picture.png") == pytest.approx(before, abs=1e-6)
    config = json.loads(Path("student/config.json").read_text())
    assert config["model"]["name"] == "timm/test_resnet"
    assert config["model"]["arguments"]["drop_rate"] == 0.25
    if to == "timm":
        model = timm.create_model("local-dir:student", pretrained=True)
        assert model.drop_rate == 0.25
        expected = load_file(run / "student.safetensors")
        assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_plug_ins_student_leaves_as_weights_and_says_what_they_need(distill):
    Path("nets.py").write_text(textwrap.dedent(NET))
    plugin = ["--plugin", "nets.py"]
    run = trained(distill, "student.model=tiny_net", "student.arguments={width: 4}", *plugin)
    before = scores(distill, str(run), some_picture(), *plugin)
    done(distill, "export", str(run), "--to", "safetensors", "-o", "student", *plugin)
    assert scores(distill, "student", "picture.png", *plugin) == pytest.approx(before, abs=1e-6)
    card = Path("student/README.md").read_text()
    assert "the plug-in's tiny_net, with num_classes=4, width=4" in card
    assert "predict FOLDER picture.png --plugin FILE" in card
    code, _, err = distill("predict", "student", "picture.png")
    assert code == 2
    assert "model 'tiny_net' is unknown" in err
    code, _, err = distill("export", str(run), "--to", "timm", "-o", "other", *plugin)
    assert code == 2
    assert "tiny_net is a plug-in's network, which timm does not have" in err
    assert not Path("other").exists()


def test_export_of_a_stranger_names_no_hub(distill, saved):
    run = trained(distill, f"student.model={saved}")
    done(distill, "export", str(run), "--to", "safetensors", "-o", "student")
    config = json.loads(Path("student/config.json").read_text())
    for name in ("hf-hub:somebody/else", "local-dir:/tmp"):
        config["model"]["name"] = name
        Path("student/config.json").write_text(json.dumps(config))
        code, _, err = distill("predict", "student", some_picture())
        assert code == 3
        assert "is no network's own name" in err
