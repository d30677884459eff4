"""The optimizer's groups, and the learning rate against its closed form."""

import math

import pytest
import torch
from torch import nn

from distill.engine.optim import make_optimizer, make_schedule, parameter_groups
from distill.models.projector import Projector
from distill.models.resnet import resnet18
from distill.structures import FeatureShape


def test_norms_biases_and_projectors_norms_have_no_weight_decay():
    module = nn.ModuleDict({"student": resnet18(num_classes=3), "projector": Projector(FeatureShape(4, 2, 2), FeatureShape(8, 2, 2))})
    decayed, plain = parameter_groups(module, 0.1)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    plain_names = {names[id(parameter)] for parameter in plain["params"]}
    decayed_names = {names[id(parameter)] for parameter in decayed["params"]}
    assert {"student.bn1.weight", "student.bn1.bias", "student.fc.bias"} <= plain_names
    assert any(name.startswith("projector") for name in plain_names)
    assert {"student.conv1.weight", "student.fc.weight"} <= decayed_names
    assert plain_names | decayed_names == set(names.values())
    assert not plain_names & decayed_names


def test_frozen_parameters_are_left_out():
    model = resnet18(num_classes=3)
    model.conv1.requires_grad_(False)
    assert all(parameter is not model.conv1.weight for group in parameter_groups(model, 0.1) for parameter in group["params"])


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_each_optimizer_moves_every_parameter(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    before = [parameter.clone() for parameter in model.parameters()]
    optimizer = make_optimizer(model, name=name, lr=0.1, weight_decay=0.01)
    (model(torch.randn(8, 3)) * torch.randn(8, 3)).sum().backward()
    optimizer.step()
    assert all(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_warm_up_is_linear_and_cosine_ends_near_zero():
    rate = make_schedule(lr=0.4, num_steps=100, warmup_steps=4)
    assert [rate(step) for step in range(4)] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert rate(4) == pytest.approx(0.4)
    assert rate(52) == pytest.approx(0.2)  # half way through the remaining 96 steps
    assert rate(99) == pytest.approx(0.4 * 0.5 * (1 + math.cos(math.pi * 95 / 96)))


def test_cosine_ends_at_the_fraction_that_was_asked_for():
    rate = make_schedule(lr=1.0, num_steps=10, final_lr_fraction=0.25)
    assert rate(0) == pytest.approx(1.0)
    assert rate(10) == pytest.approx(0.25)


def test_step_schedule_falls_at_each_milestone():
    rate = make_schedule(lr=1.0, num_steps=90, kind="step", milestones=[1 / 3, 2 / 3], gamma=0.1)
    assert [rate(step) for step in (0, 29, 30, 59, 60, 89)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_constant_schedule_is_constant_after_warm_up():
    rate = make_schedule(lr=0.3, num_steps=10, kind="constant", warmup_steps=2)
    assert [rate(step) for step in range(4)] == pytest.approx([0.15, 0.3, 0.3, 0.3])
