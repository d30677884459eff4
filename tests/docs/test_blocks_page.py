"""What docs/blocks.md says of the networks: its code is the source's, its numbers are those of the networks, its example prints what stands there."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from distill.models.blocks import BasicBlock, Bottleneck
from distill.models.hooks import FeatureHooks
from distill.models.resnet import RESNETS, ResNet, resnet18

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "blocks.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"<!-- not run: quoted from (\S+) -->\n```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
NETWORKS = ("resnet18", "resnet34", "resnet50", "resnet101")
FEATURES = ("conv1", "maxpool", "layer1", "layer2", "layer3", "layer4", "pooled", "fc")


def table(heading: str) -> dict[str, dict[str, str]]:
    """The first table below a heading: row -> column -> cell."""
    lines = [line for line in PAGE.split(f"### {heading}\n")[1].split("\n\n#")[0].splitlines() if line.startswith("|")]
    columns, _, *rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]
    return {name: dict(zip(columns[1:], cells, strict=True)) for name, *cells in rows}


@cache
def network(name: str) -> nn.Module:
    with torch.device("meta"):
        return RESNETS[name]().eval()


@cache
def forward(name: str) -> tuple[dict[str, torch.Tensor], float]:
    """The features of one picture of 224 px, and GMACs."""
    with FeatureHooks(network(name), FEATURES) as hooks, FlopCounterMode(display=False) as counter:
        network(name)(torch.zeros(1, 3, 224, 224, device="meta"))
        return hooks.pop(), counter.get_total_flops() / 2e9


def num_parameters(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def test_the_page_quotes_both_files():
    assert {path for path, _ in QUOTED} == {"distill/models/blocks.py", "distill/models/resnet.py"}


@pytest.mark.parametrize("path, piece", QUOTED)
def test_each_quoted_piece_is_in_the_source(path, piece):
    assert piece in (ROOT / path).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_of_the_table_are_the_networks(name):
    features, _ = forward(name)
    for row, cells in table("Shapes").items():
        shape, *blocks = cells[name].split(", ")
        assert " x ".join(map(str, features[row].shape[1:])) == shape, row
        if blocks:
            stage = getattr(network(name), row)
            kind = {BasicBlock: "B", Bottleneck: "N"}[type(stage[0])]
            assert f"{len(stage)} {kind}" == blocks[0]
    assert set(table("Shapes")) == set(FEATURES)


@pytest.mark.parametrize("name", NETWORKS)
def test_counts_of_the_table_are_the_networks(name):
    model, (_, gmacs) = network(name), forward(name)
    expected = {stage: f"{num_parameters(getattr(model, stage)):,}" for stage in ("layer1", "layer2", "layer3", "layer4", "fc")}
    expected |= {"stem": f"{num_parameters(model.conv1, model.bn1):,}", "all": f"{num_parameters(model):,}", "GMACs at 224 px": f"{gmacs:.2f}"}
    assert {row: cells[name] for row, cells in table("Parameters").items()} == expected


def test_counts_in_the_text_are_the_networks():
    with torch.device("meta"):
        narrow, wide = Bottleneck(256, 64), BasicBlock(256, 256)
        small_heads = [RESNETS[name](num_classes=10) for name in ("resnet18", "resnet50")]
    said = [num_parameters(narrow), num_parameters(wide.conv1, wide.conv2), *(num_parameters(model.fc) for model in small_heads)]
    assert said == [70_400, 1_179_648, 5_130, 20_490]
    assert all(f"{number:,}" in PAGE for number in said)
    assert f"{num_parameters(small_heads[0]) / 1e6:.2f} M in all" in " ".join(PAGE.split())


def test_small_stem_leaves_the_places_that_the_page_says():
    for stem, places in (("imagenet", (8, 1)), ("small", (32, 4))):
        model = resnet18(num_classes=2, stem=stem).eval()
        with FeatureHooks(model, ["layer1", "layer4"]) as hooks:
            model(torch.zeros(1, 3, 32, 32))
            assert tuple(feature.shape[-1] for feature in hooks.pop().values()) == places


def test_the_drawing_has_the_tables_shapes():
    drawing = (ROOT / "docs" / "blocks.svg").read_text(encoding="utf-8")
    (basic, _), (bottleneck, _) = forward("resnet18"), forward("resnet50")
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        size = basic[stage].shape[-1]
        assert re.search(rf">{size} \u00d7 {size}</text>\n<text[^>]*>{basic[stage].shape[1]} \| {bottleneck[stage].shape[1]}</text>", drawing), stage


def test_zero_init_residual_starts_each_block_as_its_shortcut():
    features = torch.rand(2, 64, 8, 8)
    assert torch.equal(resnet18(zero_init_residual=True).layer1(features), features)
    assert not torch.equal(resnet18().layer1(features), features)


def test_the_example_prints_what_the_page_says(capsys):
    code, printed = re.search(r"^```python\n(import torch\n.*?)^```\n```text\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE).groups()
    exec(code, {})
    assert capsys.readouterr().out == printed


def test_the_pages_own_network_trains(distill):
    Path("resnet10.py").write_text(re.search(r"^```python\n([^`]*class ResNet10.*?)^```", PAGE, re.DOTALL | re.MULTILINE).group(1))
    command = re.search(r"`distill (train --recipe r50_to_r18 student.model=res_net10 [^`]*)`", " ".join(PAGE.split())).group(1).split()
    small = ["data.source=synthetic", "data.global_batch_size=8", "train.max_steps=2", "control=false", "teacher.weights=random"]
    code, out, err = distill(*command, *small, "teacher.model=resnet18")
    assert code == 0, err
    assert "res_net10" in out


def test_every_argument_is_in_the_table():
    rows = PAGE.split("## Arguments\n")[1].split("\n\n## ")[0]
    arguments = [name for name in ResNet.__init__.__annotations__ if name != "return"]
    assert all(f"`{name}`" in rows for name in arguments)
