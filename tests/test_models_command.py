"""distill models: what is listed can be built, and what is shown of a network is what it is."""

from __future__ import annotations

import json

import pytest
import torch

from distill.models.published import published_weights
from distill.models.zoo import create_model, model_exists, model_names


def test_list_without_a_pattern_names_ours_and_counts_the_others(distill):
    code, out, _ = distill("models", "list")
    names = model_names()
    assert code == 0
    assert {line.strip() for line in out.splitlines()} >= {*names["distill"], *names["cifar"]}
    assert f"and {len(names['timm']):,} of timm" in out
    assert f"and {len(names['torchvision'])} of torchvision" in out


@pytest.mark.parametrize(
    ("pattern", "expected"), [("wide_RESNET50", "wide_resnet50_2"), ("torchvision/*net_v3_small", "torchvision/mobilenet_v3_small")]
)
def test_list_gives_what_matches(distill, pattern, expected):
    code, out, _ = distill("models", "list", pattern)
    assert code == 0
    assert expected in out.splitlines()
    assert all(model_exists(name) is None for name in out.splitlines())
    code, as_json, _ = distill("models", "list", pattern, "--json")
    assert json.loads(as_json) == out.splitlines()


def test_list_of_nothing_names_what_is_near(distill):
    code, _, err = distill("models", "list", "resnet81")
    assert code == 2
    assert "no model is called resnet81; did you mean 'resnet8'?" in err


def test_show_says_what_a_resnet_is_made_of(distill):
    code, out, _ = distill("models", "show", "resnet18", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["parameters"] == sum(one.numel() for one in create_model("resnet18", num_classes=1000).parameters()) == 11_689_512
    assert found["gmacs"] == pytest.approx(1.8141, abs=1e-4)
    assert found["classifier"] == "fc"
    assert [(stage["feature"], stage["shape"]) for stage in found["stages"]] == [
        ("layer1", [64, 56, 56]),
        ("layer2", [128, 28, 28]),
        ("layer3", [256, 14, 14]),
        ("layer4", [512, 7, 7]),
    ]
    assert found["weights"][0] == {"source": "torchvision:IMAGENET1K_V1", "num_classes": 1000, "image_size": 224, "top1": 69.758, "license": None}
    assert any(one["source"] == "timm:resnet18.a1_in1k" and one["license"] == "apache-2.0" for one in found["weights"])


def test_show_counts_a_cifar_resnet_as_its_papers_do(distill):
    code, out, _ = distill("models", "show", "resnet20")
    assert code == 0
    assert "0.28 M parameters with 100 classes" in out
    assert "GMACs at 32 px" in out
    assert ["layer3", "layer3", "64", "x", "8", "x", "8"] in [line.split() for line in out.splitlines()]
    assert "weights: none that are known here" in out
    code, out, _ = distill("models", "list", "resnet32*")
    assert out.split() == ["resnet32", "resnet32x4"]


def test_show_takes_stages_from_what_the_network_says_and_pictures_of_any_size(distill):
    code, out, _ = distill("models", "show", "timm/test_convnext", "--size", "64")
    assert code == 0
    assert "GMACs at 64 px" in out
    lines = [line.split() for line in out.splitlines()]
    assert ["layer1", "stages.0", "24", "x", "16", "x", "16"] in lines
    assert ["layer4", "stages.3", "64", "x", "2", "x", "2"] in lines


def test_show_finds_the_stages_of_a_network_that_says_nothing_of_them(distill):
    code, out, _ = distill("models", "show", "torchvision/squeezenet1_1", "--size", "64")
    assert code == 0
    assert ["layer3", "features.7", "256", "x", "7", "x", "7"] in [line.split() for line in out.splitlines()]
    assert "classifier: no linear layer" in out
    assert "58.18%" in out


def test_show_of_a_network_whose_stages_give_lists_says_that_there_are_none(distill):
    code, out, _ = distill("models", "show", "timm/hrnet_w18_small", "--size", "64")
    assert code == 0
    assert "stages: it names none" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resnet19"], "model 'resnet19' is unknown"),
        (["timm/vit_small_patch16_224", "--size", "96"], "can't take pictures of 96 px"),
        (["resnet18", "--size", "0"], "--size 0: a number of pixels"),
    ],
)
def test_what_can_not_be_shown(distill, words, message):
    code, _, err = distill("models", "show", *words)
    assert code == 2
    assert message in err


def test_showing_leaves_the_random_numbers_alone(distill):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    distill("models", "show", "timm/test_resnet", "--json")
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("family", ["distill", "torchvision"])
def test_weights_of_every_network_can_be_read(family):
    for name in model_names()[family]:
        for one in published_weights(name):
            assert one.image_size >= 64
            assert one.top1 is None or 50 < one.top1 < 95
            assert one.num_classes == 1000 or name.endswith("vgg16") or one.source.startswith("timm:")


def test_weights_of_one_tag_are_those_alone():
    assert [one.source for one in published_weights("timm/resnet18.a1_in1k")] == ["timm:resnet18.a1_in1k"]
