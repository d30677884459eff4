"""Overhaul of feature distillation: the margin against integrals, the partial distance case by case."""

import math
from dataclasses import replace

import pytest
import torch
from helpers import batch, info, outputs
from scipy.stats import truncnorm

from distill.errors import RecipeError
from distill.losses.ofd import OFD, negative_mean, partial_l2
from distill.structures import FeatureShape, Norm


def margin(bias: float, weight: float) -> float:
    return negative_mean(Norm(torch.tensor([weight], dtype=torch.float64), torch.tensor([bias], dtype=torch.float64))).item()


def ofd(teacher_channels: int = 1, layers=("layer4.pre",), bias: float = 0.0, weight: float = 1.0) -> OFD:
    """In eval mode: the projector is then its convolution, times 1 / sqrt(1 + 1e-5)."""
    loss = OFD(layers=list(layers))
    norm = Norm(torch.full((teacher_channels,), weight), torch.full((teacher_channels,), bias))
    teacher = replace(info(**dict.fromkeys(layers, FeatureShape(teacher_channels, 1, 3))), norms=dict.fromkeys(layers, norm))
    loss.setup(info(**dict.fromkeys(layers, FeatureShape(1, 1, 3))), teacher)
    return loss.eval()


@pytest.mark.parametrize("bias, weight", [(0.0, 1.0), (0.7, 0.5), (-0.7, 0.5), (1.0, -2.0), (-3.0, 0.25), (0.9, 0.25)])
def test_margin_is_the_mean_of_the_negative_part(bias, weight):
    # E[x | x < 0] by its definition: sums of x p(x) and p(x) over a fine grid of x below 0, p the normal density
    points = [-(index + 0.5) * 1e-3 for index in range(12_000)]
    density = [math.exp(-(((point - bias) / weight) ** 2) / 2) for point in points]
    expected = sum(point * chance for point, chance in zip(points, density, strict=True)) / sum(density)
    assert margin(bias, weight) == pytest.approx(expected, rel=1e-4)


def test_margin_of_a_standard_normal_channel_in_closed_form():
    assert margin(0.0, 1.0) == pytest.approx(-math.sqrt(2 / math.pi), rel=1e-12)


@pytest.mark.parametrize("ratio", [-30.0, -5.0, 3.0, 5.0, 8.0])
def test_margin_is_right_in_the_tails(ratio):
    assert margin(2 * ratio, 2.0) == pytest.approx(truncnorm.mean(-math.inf, -ratio, loc=2 * ratio, scale=2), rel=1e-6)


def test_margin_where_negative_values_are_rare_is_not_the_authors():
    # cdf(-4) = 3.2e-5 is below their 0.001, so their margin is -3 |weight|; the mean that the equation asks for is -0.226
    assert margin(4.0, 1.0) == pytest.approx(-0.2256, abs=1e-4)
    assert margin(50.0, 1.0) == pytest.approx(-1 / 50, rel=1e-3)  # asymptotically -|weight| / ratio


@pytest.mark.parametrize("weight", [0.0, 1e-30, -1e-20])
def test_margin_of_a_constant_channel_is_its_value_or_zero(weight):
    assert margin(-2.0, weight) == pytest.approx(-2.0)
    assert margin(3.0, weight) == 0
    assert margin(0.0, weight) == pytest.approx(0, abs=1e-11)


@pytest.mark.parametrize("bias, weight", [(-1e6, 1e-6), (1e6, 1e-6), (1e-6, 1e6), (-100.0, 1.0), (100.0, 1.0)])
def test_margin_is_finite_and_never_positive(bias, weight):
    assert math.isfinite(margin(bias, weight))
    assert margin(bias, weight) <= 0


def test_partial_l2_case_by_case():
    # margin -0.5; pairs (teacher, student), target = max(teacher, margin)
    cases = [
        (2.0, 1.0, 1.0),  # positive target: the square, on either side
        (2.0, 3.0, 1.0),
        (-1.0, -1.0, 0.0),  # both negative and the student at or below the target: after a ReLU nobody sees it
        (-0.2, -0.7, 0.0),
        (-1.0, 0.5, (0.5 + 0.5) ** 2),  # the target is the margin
        (-0.2, 0.0, 0.2**2),  # the target is the teacher's own value, above the margin
    ]
    teacher, student, expected = (torch.tensor(column).reshape(2, 1, 1, 3) for column in zip(*cases, strict=True))
    value = partial_l2(student, teacher, torch.tensor([-0.5]).reshape(1, 1, 1))
    assert value.item() == pytest.approx(expected.sum().item() / 2, rel=1e-6)  # sum over elements, mean over two samples


def test_ofd_by_hand():
    loss = ofd()  # margin -sqrt(2 / pi) = -0.798
    with torch.no_grad():
        loss.projectors[0].conv.weight.fill_(2.0)
    student = torch.tensor([[0.5, -1.0, 0.1], [0.0, 0.0, 0.0]]).reshape(2, 1, 1, 3)  # projected: 1, -2, 0.2 and zeros
    teacher = torch.tensor([[3.0, -1.0, -5.0], [0.0, 1.0, -0.5]]).reshape(2, 1, 1, 3)
    first = (3 - 1) ** 2 + 0 + (0.2 + math.sqrt(2 / math.pi)) ** 2
    second = 0 + 1 + 0.5**2
    value = loss(outputs(**{"layer4.pre": student}), outputs(**{"layer4.pre": teacher}), batch([0, 0]))
    assert value.item() == pytest.approx((first + second) / 2, rel=1e-4)


def test_shallower_layers_count_half_as_much_each():
    layers = ["layer2.pre", "layer3.pre", "layer4.pre"]
    loss = ofd(layers=layers)
    zeros, ones = torch.zeros(2, 1, 1, 3), torch.ones(2, 1, 1, 3)  # zeros stay zeros; 3 elements with a difference of 1
    value = loss(outputs(**dict.fromkeys(layers, zeros)), outputs(**dict.fromkeys(layers, ones)), batch([0, 0]))
    assert value.item() == pytest.approx(3 * (1 + 1 / 2 + 1 / 4), rel=1e-6)


def test_margins_move_with_the_loss_and_are_not_saved():
    loss = ofd(teacher_channels=4)
    assert dict(loss.named_buffers())["margin0"].shape == (4, 1, 1)
    assert not [name for name in loss.state_dict() if "margin" in name]
    assert loss.double().margin0.dtype == torch.float64


def test_ofd_refuses_a_teacher_without_batch_norm():
    shape = FeatureShape(3, 8, 8)
    with pytest.raises(RecipeError, match=r"teacher net has no batch norm before 'layer4\.pre', and this loss takes its margin from one"):
        OFD(layers=["layer4.pre"]).setup(info(**{"layer4.pre": shape}), info(**{"layer4.pre": shape}))


def test_ofd_refuses_vectors():
    with pytest.raises(RecipeError, match="the teacher's 'pooled' is a vector"):
        OFD(layers=["pooled"]).setup(info(pooled=FeatureShape(3)), info(pooled=FeatureShape(3)))


@pytest.mark.parametrize("layer", ["layer4", "last"])
def test_a_stage_after_its_activation_is_refused(layer):
    with pytest.raises(RecipeError, match=f"take '{layer}.pre'"):
        OFD(layers=[layer])
