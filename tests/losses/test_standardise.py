"""Standardised logits: mean 0, deviation 1, and a bounded gradient where all logits are equal."""

import math

import pytest
import torch
from helpers import normal
from torchdistill.losses.mid_level import LogitStdKDLoss

from distill.losses._standardise import standardise, standardised


def test_standardise_by_hand():
    # mean 10, variance (25 + 0 + 25) / 3, so the deviation is 5 sqrt(2 / 3)
    expected = math.sqrt(1.5)
    assert standardise(torch.tensor([[5.0, 10.0, 15.0]]))[0].tolist() == pytest.approx([-expected, 0, expected], rel=1e-5)


def test_each_row_for_itself_gets_mean_0_and_a_deviation_that_divides_by_the_number_of_classes():
    rows = standardise(torch.tensor([[1.0], [40.0]]) * normal(2, 9, dtype=torch.float64) + 3)
    assert rows.mean(dim=1).tolist() == pytest.approx([0, 0], abs=1e-12)
    assert rows.square().mean(dim=1).tolist() == pytest.approx([1, 1], rel=1e-5)
    assert rows.dtype == torch.float64


def test_standardised_does_the_same_to_both():
    student, teacher = normal(2, 5, seed=1), normal(2, 5, seed=2)
    ours, theirs = standardised(student, teacher)
    assert ours.equal(standardise(student))
    assert theirs.equal(standardise(teacher))


def test_equal_logits_become_0_with_a_gradient_far_below_torchdistills():
    logits = torch.full((2, 5), 3.0, requires_grad=True)
    value = standardise(logits)
    assert value.eq(0).all()
    (gradient,) = torch.autograd.grad(value[:, 0].sum(), logits)
    assert gradient.isfinite().all()
    assert gradient[0, 0].item() == pytest.approx(0.8 / 1e-3, rel=1e-4)  # one minus a fifth, over the bound
    theirs = LogitStdKDLoss("head", "output", "head", "output", temperature=2.0, alpha=0.1)
    (gradient,) = torch.autograd.grad(theirs.standardize(logits)[:, 0].sum(), logits)
    assert gradient[0, 0].item() == pytest.approx(0.8 / 1e-7, rel=1e-4)
