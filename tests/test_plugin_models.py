"""A network of one's own, as teacher and as student, from a file."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

NET = """
    import torch
    from torch import nn


    class MyBlock(nn.Module):  # takes no num_classes: not a network
        def __init__(self, width):
            super().__init__()
            self.conv = nn.Conv2d(width, width, 3, stride=2, padding=1)

        def forward(self, images):
            return self.conv(images).relu()


    class MyNet(nn.Module):
        def __init__(self, num_classes: int, width: int = 8):
            super().__init__()
            self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
            self.blocks = nn.Sequential(MyBlock(width), MyBlock(width))
            self.classifier = nn.Linear(width, num_classes)

        def forward(self, images):
            return self.classifier(self.blocks(self.stem(images)).mean((2, 3)))
"""


@pytest.fixture
def plugin() -> list[str]:
    Path("nets.py").write_text(textwrap.dedent(NET))
    return ["--plugin", "nets.py"]


def test_own_networks_teach_and_learn(distill, plugin):
    losses = "losses={fitnet: {weight: 1, layers: [layer4, layer3, pooled]}, kd: {weight: 1}, ce: {weight: 1}}"
    words = ["teacher.model=my_net", "teacher.arguments={width: 16}", "student.model=my_net", losses, "control=false"]
    code, _, err = distill("train", "--recipe", "smoke", *words, *plugin)
    assert code == 0, err
    weights = load_file("runs/smoke-seed0/student.safetensors")
    assert weights["stem.weight"].shape == (8, 3, 3, 3)
    code, _, err = distill("eval", "runs/smoke-seed0", *plugin)
    assert code == 0, err
    assert all(value.isfinite().all() for value in weights.values() if isinstance(value, torch.Tensor))


def test_own_networks_are_listed_and_shown(distill, plugin):
    assert distill("models", "list", "my_", *plugin)[1].splitlines() == ["my_net"]
    assert "my_net (plug-in)" in distill("models", "list", *plugin)[1]
    code, out, err = distill("models", "show", "my_net", "--size", "64", *plugin)
    assert code == 0, err
    assert ["layer4", "blocks.1", "8", "x", "8", "x", "8"] in [line.split() for line in out.splitlines()]


@pytest.mark.parametrize(
    "words, message",
    [
        (["student.model=my_nat"], "did you mean 'my_net'"),
        (["student.model=my_net", "student.arguments={wide: 3}"], "argument 'wide' is unknown; did you mean 'width'"),
        (["student.model=my_net", "student.norm=group"], "norm='group' is an option of our own ResNets"),
        (["student.model=my_block"], "'my_block' is unknown"),
    ],
)
def test_what_a_plugin_does_not_have_is_said(distill, plugin, words, message):
    code, _, err = distill("train", "--recipe", "smoke", *words, *plugin)
    assert code == 2
    assert message in err


def test_a_name_that_is_taken_is_refused(distill):
    Path("nets.py").write_text(textwrap.dedent(NET).replace("MyNet", "Resnet18"))
    code, _, err = distill("train", "--recipe", "smoke", "--plugin", "nets.py")
    assert code == 2
    assert "two models are called 'resnet18'" in err
