"""Attention transfer by hand, against torchdistill, and maps that don't fit."""

import math

import pytest
import torch
from helpers import batch, info, normal, outputs
from torchdistill.losses.mid_level import ATLoss

from distill.errors import RecipeError
from distill.losses.at import AttentionTransfer, attention
from distill.structures import FeatureShape

PAIRS = {layer: {whose: {"path": layer, "io": "output"} for whose in ("student", "teacher")} for layer in ("layer3", "layer4")}


# Zagoruyko, Komodakis, 2017: equation 2, with the mean of the authors' code in place of the norm


def test_attention_by_hand():
    # mean of squares over two channels: (1 + 17) / 2 = 9 and (7 + 17) / 2 = 12, scaled to length 15: 3/5 and 4/5
    feature_map = torch.tensor([1.0, 7.0, 17.0, 17.0]).sqrt().view(1, 2, 1, 2)
    assert attention(feature_map)[0].tolist() == pytest.approx([0.6, 0.8], rel=1e-6)


def test_attention_runs_over_rows_and_then_columns():
    feature_map = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]], [[[0.0, 0.0], [2.0, 0.0]]]])  # [2, 1, 2, 2]
    assert attention(feature_map).tolist() == [[1, 0, 0, 0], [0, 0, 1, 0]]


def test_at_by_hand():
    # First sample: student (1, 0), teacher (1, 1) / sqrt 2, of different widths; second sample: both (0, 1).
    student = torch.tensor([[[[5.0, 0.0]]], [[[0.0, 3.0]]]])  # [2, 1, 1, 2]
    teacher = torch.tensor([[[[1.0, 2.0]], [[2.0, 1.0]]], [[[0.0, 4.0]], [[0.0, 1.0]]]])  # [2, 2, 1, 2]
    one = ((1 - math.sqrt(0.5)) ** 2 + 0.5) / 4  # mean over 2 samples and 2 places
    loss = AttentionTransfer(layers=["layer3"])
    assert loss(outputs(layer3=student), outputs(layer3=teacher), batch([0, 0])).item() == pytest.approx(one, rel=1e-5)
    both = AttentionTransfer(layers=["layer3", "layer4"])
    value = both(outputs(layer3=student, layer4=student), outputs(layer3=teacher, layer4=teacher), batch([0, 0]))
    assert value.item() == pytest.approx(2 * one, rel=1e-5)  # a sum over layers


def test_at_equals_torchdistills_code_mode():
    targets = {"layer3": normal(5, 6, 4, 4, seed=3), "layer4": normal(5, 8, 2, 3, seed=4)}
    results = []
    for ours in (True, False):
        features = {"layer3": normal(5, 3, 4, 4, seed=1).requires_grad_(), "layer4": normal(5, 4, 2, 3, seed=2).requires_grad_()}
        if ours:
            value = AttentionTransfer(layers=list(PAIRS))(outputs(**features), outputs(**targets), batch([0] * 5))
        else:
            caught = ({layer: {"output": feature} for layer, feature in maps.items()} for maps in (features, targets))
            value = ATLoss(PAIRS, mode="code")(*caught)
        value.backward()
        results.append((value, [feature.grad for feature in features.values()]))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-8)


def test_torchdistills_paper_mode_takes_the_norm_over_places_in_place_of_the_mean_of_squares():
    student, teacher = normal(5, 3, 4, 4, seed=1), normal(5, 6, 4, 4, seed=2)
    theirs = ATLoss({"pair": PAIRS["layer3"]}, mode="paper")({"layer3": {"output": student}}, {"layer3": {"output": teacher}})
    squares = (attention(student) - attention(teacher)).square()  # [N, 16]
    assert theirs.item() == pytest.approx(squares.sum(dim=1).sqrt().mean().item(), rel=1e-5)
    ours = AttentionTransfer(layers=["layer3"])(outputs(layer3=student), outputs(layer3=teacher), batch([0] * 5))
    assert ours.item() == pytest.approx(squares.mean().item(), rel=1e-5)


def test_at_does_not_see_the_scale_of_a_map():
    student, teacher = normal(3, 4, 5, 5, seed=1), normal(3, 6, 5, 5, seed=2)
    loss = AttentionTransfer(layers=["layer1"])
    plain = loss(outputs(layer1=student), outputs(layer1=teacher), batch([0]))
    assert loss(outputs(layer1=7 * student), outputs(layer1=0.01 * teacher), batch([0])).item() == pytest.approx(plain.item(), rel=1e-4)


def test_attention_of_a_dead_map_is_zero_with_a_finite_gradient():
    dead = torch.zeros(2, 3, 4, 4, requires_grad=True)
    value = (attention(dead) - attention(normal(2, 3, 4, 4))).square().mean()
    value.backward()
    assert value.item() == pytest.approx(1 / 16, rel=1e-5)  # a vector of length 1, its square averaged over 16 places
    assert dead.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_big_half_precision_maps_stay_finite_and_near_float32(dtype):
    # 100 squared is above half of the largest float16, 65504, for values of several standard deviations: sums of squares must be in float32
    student, teacher = 100 * normal(4, 8, 6, 6, seed=1), 100 * normal(4, 12, 6, 6, seed=2)
    loss = AttentionTransfer(layers=["layer3"])
    exact = loss(outputs(layer3=student), outputs(layer3=teacher), batch([0])).item()
    value = loss(outputs(layer3=student.to(dtype)), outputs(layer3=teacher.to(dtype)), batch([0]))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact, rel=1e-2)


def test_attention_gradient_is_right_in_double_precision():
    feature_map = normal(2, 3, 2, 3, dtype=torch.float64).requires_grad_()
    assert attention(feature_map).dtype == torch.float64
    assert torch.autograd.gradcheck(attention, feature_map)


def test_at_pools_the_larger_map():
    loss = AttentionTransfer(layers=["layer2"])
    loss.setup(info(layer2=FeatureShape(1, 1, 2)), info(layer2=FeatureShape(1, 2, 4)))
    small = torch.tensor([2.0, 0.0]).view(1, 1, 1, 2)  # attention (1, 0)
    large = torch.tensor([[1.0, 3.0, 6.0, 0.0], [3.0, -3.0, 2.0, 0.0]]).view(1, 1, 2, 4)  # means of four: 1 and 2; attention (1, 4) / sqrt(17)
    expected = ((1 - 1 / math.sqrt(17)) ** 2 + 16 / 17) / 2
    for student, teacher in ((small, large), (large, small)):
        assert loss(outputs(layer2=student), outputs(layer2=teacher), batch([0])).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("whose", ["student", "teacher"])
def test_at_refuses_vectors(whose):
    shapes = {"student": FeatureShape(3, 8, 8), "teacher": FeatureShape(3, 8, 8)} | {whose: FeatureShape(3)}
    with pytest.raises(RecipeError, match=f"the {whose}'s 'pooled' is a vector"):
        AttentionTransfer(layers=["pooled"]).setup(info(pooled=shapes["student"]), info(pooled=shapes["teacher"]))
