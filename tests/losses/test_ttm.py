"""Transformed teacher matching by hand, as kd with two temperatures, and powers of probabilities that underflow."""

import math

import pytest
import torch
from helpers import STUDENT, batch, info, normal, outputs

from distill.errors import RecipeError
from distill.losses._power import power_divergence
from distill.losses.kd import kd
from distill.losses.ttm import TTM

# Zheng, Yang, 2024, section 3: KL(p^g / sum(p^g) || q)


def test_ttm_by_hand():
    # Square roots of (16, 4, 4) / 24 and (9, 36, 1) / 46, brought to a sum of 1: (1/2, 1/4, 1/4) and (0.3, 0.6, 0.1).
    teacher = torch.tensor([[16.0, 4.0, 4.0], [9.0, 36.0, 1.0]]).log()
    first = 0.5 * math.log(2) + 0.25 * math.log(0.5)  # against (1/4, 1/2, 1/4)
    second = 0.3 * math.log(0.5) + 0.6 * math.log(2)  # against (0.6, 0.3, 0.1)
    value = TTM(exponent=0.5)(outputs(STUDENT), outputs(teacher), batch([0, 0]))
    assert value.item() == pytest.approx((first + second) / 2, rel=1e-5)


@pytest.mark.parametrize("exponent", [0.1, 0.5, 1.0])
def test_power_divergence_equals_the_papers_power_of_probabilities(exponent):
    student, teacher = normal(5, 7, seed=1, dtype=torch.float64).requires_grad_(), normal(5, 7, seed=2, dtype=torch.float64)
    power = teacher.softmax(dim=1) ** exponent
    power = power / power.sum(dim=1, keepdim=True)
    values = [power_divergence(student, teacher, exponent), (power * (power / student.softmax(dim=1)).log()).sum(dim=1)]
    gradients = [torch.autograd.grad(value.sum(), student)[0].flatten().tolist() for value in values]
    assert values[0].tolist() == pytest.approx(values[1].tolist(), rel=1e-10)
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-8, abs=1e-12)


def test_ttm_with_exponent_1_is_kd_at_temperature_1():
    student, teacher = normal(5, 7, seed=1), normal(5, 7, seed=2)
    assert TTM(exponent=1.0)(outputs(student), outputs(teacher), batch([0] * 5)).item() == pytest.approx(kd(student, teacher, 1.0).item(), rel=1e-5)


def test_classes_whose_probability_is_0_in_float32_keep_their_power():
    # exp(-120) is 0 in float32, and its power 0.02 is exp(-2.4): by the power of probabilities the teacher would be sure, (1, 0, 0).
    student, teacher = torch.zeros(1, 3), torch.tensor([[0.0, -120.0, -120.0]])
    share = 1 / (1 + 2 * math.exp(-2.4))
    expected = share * math.log(3 * share) + (1 - share) * math.log(3 * (1 - share) / 2)
    assert power_divergence(student, teacher, 0.02).item() == pytest.approx(expected, rel=1e-5)


def test_ttm_refuses_bad_arguments_and_networks_of_different_classes():
    with pytest.raises(RecipeError, match="exponent must be above 0, got 0"):
        TTM(exponent=0)
    with pytest.raises(RecipeError, match="student has 10 classes and the teacher 1000"):
        TTM().setup(info(10), info(1000))
