"""An answer taken apart: odds of one class, and some classes among themselves, by hand and where everything is saturated."""

import math

import pytest
import torch
from helpers import STUDENT, TEACHER, normal

from distill.losses._target import divergence_without, log_odds, log_softmax_without, only, two_way_divergence

LABELS = torch.tensor([0, 1])


def test_log_odds_by_hand():
    assert log_odds(STUDENT, LABELS).tolist() == pytest.approx([math.log(0.25 / 0.75), math.log(0.3 / 0.7)], rel=1e-6)
    assert log_odds(TEACHER, LABELS).sigmoid().tolist() == pytest.approx([0.5, 0.3], rel=1e-6)


def test_two_way_divergence_by_hand():
    student, teacher = (torch.tensor([share / (1 - share)]).log() for share in (0.2, 0.4))
    assert two_way_divergence(student, teacher).item() == pytest.approx(0.4 * math.log(2) + 0.6 * math.log(0.6 / 0.8), rel=1e-6)
    assert two_way_divergence(teacher, teacher).item() == 0


def test_log_softmax_without_by_hand():
    value = log_softmax_without(STUDENT, only(LABELS, STUDENT))
    assert value[0].tolist() == pytest.approx([0, math.log(2 / 3), math.log(1 / 3)], rel=1e-6)
    assert value[1].tolist() == pytest.approx([math.log(6 / 7), 0, math.log(1 / 7)], rel=1e-6)


def test_divergence_without_by_hand():
    # The teacher's other classes (1/2, 1/2) against the student's (2/3, 1/3); in the second row both networks agree.
    value = divergence_without(STUDENT, TEACHER, only(LABELS, STUDENT))
    assert value.item() == pytest.approx((0.5 * math.log(3 / 4) + 0.5 * math.log(3 / 2)) / 2, rel=1e-5)


def test_nothing_to_compare_is_0_with_a_gradient_of_0():
    logits = normal(2, 4).requires_grad_()
    left_out = torch.tensor([[True] * 4, [True, False, True, True]])  # no class, and one class alone
    value = divergence_without(logits, normal(2, 4, seed=1), left_out)
    value.backward()
    assert value.item() == 0
    assert logits.grad.eq(0).all()


def test_saturated_logits_stay_finite():
    logits = (1e4 * torch.eye(3)).requires_grad_()
    for classes in (torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0])):
        odds = log_odds(logits, classes)
        value = two_way_divergence(odds, -odds.detach()).sum() + divergence_without(logits, -logits.detach(), only(classes, logits))
        (gradient,) = torch.autograd.grad(value, logits)
        assert value.isfinite()
        assert gradient.isfinite().all()
