"""layer1 .. layer4 of any network, against the stages that its authors' code has."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn

from distill.models.hooks import FeatureHooks
from distill.models.stages import find_stages

LAYERS = ["layer1", "layer2", "layer3", "layer4"]


@pytest.mark.parametrize(
    "name, paths",
    [
        ("test_resnet", LAYERS),
        ("test_convnext", ["stages.0", "stages.1", "stages.2", "stages.3"]),
        ("test_efficientnet", ["blocks.1", "blocks.2", "blocks.3", "blocks.4"]),  # its first stage has half the picture's size
        ("test_vit", ["blocks.1", "blocks.3", "blocks.5", "blocks.7"]),
        ("regnety_002", ["s1", "s2", "s3", "s4"]),
        ("mobilenetv3_small_050", ["blocks.0", "blocks.1", "blocks.3", "blocks.5"]),
    ],
)
def test_stages_that_timm_names(name, paths):
    model = timm.create_model(name)
    depth = {path: number for number, path in enumerate(dict(model.named_modules()))}
    found = find_stages(model)
    assert list(found) == LAYERS
    assert list(found.values()) == ([f"blocks.{len(model.blocks) * part // 4 - 1}" for part in range(1, 5)] if name == "test_vit" else paths)
    assert sorted(found.values(), key=depth.__getitem__) == list(found.values())


def test_a_network_of_three_strides_has_its_deepest_stages():
    assert dict(find_stages(timm.create_model("levit_128s"))) == {"layer2": "stages.0", "layer3": "stages.1", "layer4": "stages.2"}


@pytest.mark.parametrize(
    "name, paths",
    [
        ("resnet18", LAYERS),
        ("regnet_x_400mf", [f"trunk_output.block{number}" for number in range(1, 5)]),
        ("convnext_tiny", ["features.1", "features.3", "features.5", "features.7"]),
        ("mobilenet_v3_small", ["features.1", "features.3", "features.8", "features.12"]),
        ("shufflenet_v2_x0_5", ["maxpool", "stage2", "stage3", "conv5"]),
        ("vit_b_16", [f"encoder.layers.encoder_layer_{number}" for number in (2, 5, 8, 11)]),
        ("swin_t", ["features.1", "features.3", "features.5", "permute"]),
    ],
)
def test_stages_that_torchvision_does_not_name_are_found_by_running(name, paths):
    model = torchvision.models.get_model(name, weights=None)
    model.dropout_probe = nn.Dropout()  # modes are left as they were, one by one
    model.dropout_probe.eval()
    found = find_stages(model)
    assert dict(found) == dict(zip(LAYERS, paths, strict=True))
    assert model.training
    assert not model.dropout_probe.training
    assert not any(module._forward_hooks for module in model.modules())


def test_found_stages_shrink_and_are_maps():
    model = torchvision.models.swin_t(weights=None).eval()
    hooks = FeatureHooks(model, LAYERS)
    model(torch.zeros(1, 3, 64, 64))
    assert [tuple(feature.shape[1:]) for feature in hooks.pop().values()] == [(96, 16, 16), (192, 8, 8), (384, 4, 4), (768, 2, 2)]


class _Own(nn.Module):
    """Stages behind a name of its own, whose first layer works at the size of the stage before, as a Bottleneck's does."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.parts = nn.ModuleList(nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, stride=2, padding=1), nn.ReLU()) for _ in range(3))
        self.head = nn.Linear(4, 2)

    def forward(self, images):
        images = self.stem(images)
        for part in self.parts:
            images = part(images)
        return self.head(images.mean((2, 3)))


def test_a_network_of_ones_own_has_stages_too():
    model = _Own()
    assert dict(find_stages(model)) == {"layer1": "stem", "layer2": "parts.0", "layer3": "parts.1", "layer4": "parts.2"}
    assert FeatureHooks(model, ["last"]).stages == {"last": "parts.2"}


def test_a_network_without_maps_has_no_stages():
    assert find_stages(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4))) == {}
