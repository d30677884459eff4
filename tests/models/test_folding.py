"""Folded batch norms: the same function, names and hooks, and what must not be folded is left."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn

from distill.models.folding import fold_batch_norms
from distill.models.hooks import FeatureHooks
from distill.models.zoo import create_model

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def frozen(model: nn.Module) -> nn.Module:
    """With statistics and affine values as after a training, and not the initial 0 and 1, which would hide a mistake."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if getattr(module, "running_var", None) is not None:
            module.running_var.uniform_(0.5, 2.0, generator=generator)
            module.running_mean.normal_(0.0, 0.3, generator=generator)
            if module.weight is not None:
                module.weight.data.uniform_(0.5, 1.5, generator=generator)
                module.bias.data.normal_(0.0, 0.3, generator=generator)
    return model.eval().requires_grad_(False)


class Small(nn.Module):
    """One convolution and one batch norm, and what stands between or beside them."""

    def __init__(self, kind: str = "plain"):
        super().__init__()
        self.kind = kind
        self.conv, self.bn = nn.Conv2d(3, 3, 1, bias=kind == "bias"), nn.BatchNorm2d(3, affine=kind != "not affine")
        if kind == "no statistics":
            self.bn = nn.BatchNorm2d(3, track_running_stats=False)
        if kind == "parametrized":
            nn.utils.parametrizations.weight_norm(self.conv)
        if kind == "shared weight":
            self.other = nn.Conv2d(3, 3, 1, bias=False)
            self.other.weight = self.conv.weight

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found = self.conv(images)
        normed = self.bn(found.relu() if self.kind == "relu between" else found)
        if self.kind == "read twice":
            return normed + found
        if self.kind == "read through a view":
            return normed + found.flatten(1).sum()
        if self.kind == "convolution twice":
            return normed + self.conv(normed)
        if self.kind == "norm twice":
            return self.bn(normed)
        return normed + self.other(images) if self.kind == "shared weight" else normed


def test_values_worked_by_hand():
    """conv 2, mean 1, variance 4 - eps, weight 3, bias 5: 3 * (2 x - 1) / 2 + 5 = 3 x + 3.5."""
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=1e-5)).eval().requires_grad_(False)
    norm = model[1]
    for tensor, value in ((model[0].weight, 2), (norm.running_mean, 1), (norm.running_var, 4 - 1e-5), (norm.weight, 3), (norm.bias, 5)):
        tensor.fill_(value)
    assert fold_batch_norms(model, torch.ones(1, 1, 1, 1)).num_folded == 1
    assert model[0].weight.item() == pytest.approx(3.0, abs=1e-6)
    assert model[0].bias.item() == pytest.approx(3.5, abs=1e-6)
    assert model(torch.full((1, 1, 1, 1), 2.0)).item() == pytest.approx(9.5, abs=1e-5)


NETWORKS = {
    "resnet18": (lambda: create_model("resnet18", num_classes=10), 20),
    "resnet18, frozen": (lambda: create_model("resnet18", num_classes=10, norm="frozen"), 20),
    "resnet18, group": (lambda: create_model("resnet18", num_classes=10, norm="group"), 0),
    "timm/test_resnet": (lambda: timm.create_model("test_resnet"), 15),
    "timm/test_efficientnet": (lambda: timm.create_model("test_efficientnet"), None),
    "timm/test_vit": (lambda: timm.create_model("test_vit", img_size=32), 0),
    "torchvision/shufflenet": (lambda: torchvision.models.shufflenet_v2_x0_5(weights=None), 56),
}


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_network_computes_the_same_and_can_be_brought_back(name):
    make, expected = NETWORKS[name]
    model = frozen(make())
    paths, before = [path for path, _ in model.named_modules()], {key: value.clone() for key, value in model.state_dict().items()}
    answers = model(IMAGES)
    folding = fold_batch_norms(model, IMAGES)
    assert folding.num_folded == (folding.num_norms if expected is None else expected)
    assert {path for path, _ in model.named_modules()} == set(paths)
    assert torch.allclose(model(IMAGES), answers, rtol=1e-4, atol=2e-5 * answers.abs().max().item())
    if expected != 0:
        assert not torch.equal(next(iter(model.state_dict().values())), next(iter(before.values())))
    folding.undo()
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert torch.equal(model(IMAGES), answers)


@pytest.mark.parametrize("kind", ["plain", "bias", "not affine"])
@torch.no_grad()
def test_folded(kind):
    model = frozen(Small(kind))
    answers = model(IMAGES)
    assert fold_batch_norms(model, IMAGES).num_folded == 1
    assert torch.allclose(model(IMAGES), answers, atol=1e-5)
    assert type(model.bn) is nn.Identity


LEFT = ["relu between", "read twice", "read through a view", "convolution twice", "norm twice", "shared weight", "parametrized", "no statistics"]


@pytest.mark.parametrize("kind", LEFT)
@torch.no_grad()
def test_what_would_change_is_left_alone(kind):
    model = frozen(Small(kind))
    answers = model(IMAGES)
    assert fold_batch_norms(model, IMAGES).num_folded == 0
    assert torch.equal(model(IMAGES), answers)


@pytest.mark.parametrize("hooked", ["conv", "bn's input"])
def test_values_that_somebody_looks_at_are_left_alone(hooked):
    model, seen = frozen(Small()), []
    if hooked == "conv":
        model.conv.register_forward_hook(lambda *arguments: seen.append(arguments[-1]))
    else:
        model.bn.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(IMAGES)
        assert fold_batch_norms(model, IMAGES).num_folded == 0
        model(IMAGES)
    assert torch.equal(seen[0], seen[-1])


@pytest.mark.parametrize("norm", ["batch", "frozen"])
@torch.no_grad()
def test_hooks_see_what_they_saw(norm):
    names = ["layer1", "layer2.0.bn2", "layer3.pre", "layer3.1.conv1", "layer4", "pooled"]
    model = frozen(create_model("resnet18", num_classes=10, norm=norm))
    with FeatureHooks(model, names) as hooks:
        model(IMAGES)
        before = hooks.pop()
        folding = fold_batch_norms(model, IMAGES)
        assert folding.num_folded == 19  # layer3.1.conv1 is looked at
        for _ in range(2):
            model(IMAGES)
            after = hooks.pop()
            for name in names:
                assert torch.allclose(after[name], before[name], rtol=1e-4, atol=1e-4), name
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_activation_of_timms_norms_is_still_there_with_its_name():
    model = frozen(timm.create_model("test_efficientnet"))
    fold_batch_norms(model, IMAGES)
    assert type(model.bn1) is nn.Sequential
    assert torch.equal(model.bn1(-torch.ones(1, 1, 1, 1)), model.bn1.act(-torch.ones(1, 1, 1, 1)))
    assert not torch.equal(model.bn1(-torch.ones(1, 1, 1, 1)), -torch.ones(1, 1, 1, 1))


def test_layout_of_weights_stays():
    model = frozen(create_model("resnet18", num_classes=10)).to(memory_format=torch.channels_last)
    fold_batch_norms(model, IMAGES)
    assert model.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert not model.layer1[0].conv1.weight.requires_grad


@pytest.mark.parametrize("spoil", [lambda model: model.train(), lambda model: model.bn.train(), lambda model: model.requires_grad_()])
def test_network_that_trains_is_refused(spoil):
    model = frozen(Small())
    spoil(model)
    with pytest.raises(ValueError, match="only a frozen network in eval mode"):
        fold_batch_norms(model, IMAGES)
