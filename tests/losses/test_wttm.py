"""Weighted transformed teacher matching by hand, and what its weights can be."""

import math

import pytest
import torch
from helpers import STUDENT, batch, info, normal, outputs

from distill.errors import RecipeError
from distill.losses._power import power_sum
from distill.losses.wttm import WTTM

# Zheng, Yang, 2024, section 4: ttm of each sample times the sum of the powers


def test_wttm_by_hand():
    # Square roots of (16, 4, 4) / 24 and (9, 36, 1) / 46: sums 8 / sqrt(24) and 10 / sqrt(46); brought to a sum of 1, as in test_ttm.py.
    teacher = torch.tensor([[16.0, 4.0, 4.0], [9.0, 36.0, 1.0]]).log()
    first = 8 / math.sqrt(24) * (0.5 * math.log(2) + 0.25 * math.log(0.5))
    second = 10 / math.sqrt(46) * (0.3 * math.log(0.5) + 0.6 * math.log(2))
    value = WTTM(exponent=0.5)(outputs(STUDENT), outputs(teacher), batch([0, 0]))
    assert value.item() == pytest.approx((first + second) / 2, rel=1e-5)


def test_wttm_equals_the_papers_power_of_probabilities_in_value_and_gradient():
    student, teacher = normal(5, 7, seed=1, dtype=torch.float64).requires_grad_(), normal(5, 7, seed=2, dtype=torch.float64)
    power = teacher.softmax(dim=1) ** 0.2
    total = power.sum(dim=1, keepdim=True)
    theirs = (total * power / total * (power / total / student.softmax(dim=1)).log()).sum(dim=1).mean()
    ours = WTTM(exponent=0.2)(outputs(student), outputs(teacher), batch([0] * 5))
    gradients = [torch.autograd.grad(value, student)[0].flatten().tolist() for value in (ours, theirs)]
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-10)
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-8, abs=1e-12)


def test_a_weight_goes_from_1_to_what_all_classes_alike_give():
    assert power_sum(torch.zeros(1, 4), 0.5).item() == pytest.approx(2)  # 4 times sqrt(1/4)
    assert power_sum(torch.tensor([[1e4, 0.0, 0.0, 0.0]]), 0.5).item() == pytest.approx(1)
    # exp(-120) is 0 in float32; its power 0.02 is not
    assert power_sum(torch.tensor([[0.0, -120.0, -120.0]]), 0.02).item() == pytest.approx(1 + 2 * math.exp(-2.4), rel=1e-5)


def test_wttm_refuses_bad_arguments_and_networks_of_different_classes():
    with pytest.raises(RecipeError, match="exponent must be above 0, got -1"):
        WTTM(exponent=-1)
    with pytest.raises(RecipeError, match="student has 10 classes and the teacher 1000"):
        WTTM().setup(info(10), info(1000))
