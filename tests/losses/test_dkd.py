"""Decoupled distillation by hand, against the paper's probabilities and its own decomposition of kd, and saturated logits."""

import math

import pytest
import torch
from helpers import STUDENT, TEACHER, batch, info, normal, outputs

from distill.errors import RecipeError
from distill.losses._standardise import standardise
from distill.losses.dkd import DKD, dkd
from distill.losses.kd import kd

# Zhao et al., 2022, section 3: TCKD between (p_y, 1 - p_y), NCKD between the other classes, each network's brought to a sum of 1


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dkd_by_hand(temperature):
    # Label 0 has 1/2 of the teacher's answer and 1/4 of the student's; the others are (1/2, 1/2) against (2/3, 1/3). The second rows agree.
    target = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    others = 0.5 * math.log(3 / 4) + 0.5 * math.log(3 / 2)
    loss = DKD(alpha=2.0, beta=3.0, temperature=temperature)
    value = loss(outputs(STUDENT * temperature), outputs(TEACHER * temperature), batch([0, 1]))
    assert value.item() == pytest.approx(temperature**2 * (2 * target + 3 * others) / 2, rel=1e-5)


def by_probabilities(student, teacher, labels, alpha, beta, temperature):
    """The paper's section 3.1 as it stands: probabilities, their sums, logarithms of both."""
    total = 0
    for ours, theirs, label in zip((student / temperature).softmax(1), (teacher / temperature).softmax(1), labels, strict=True):
        others = [k for k in range(len(ours)) if k != label]
        rest_ours, rest_theirs = ours[others].sum(), theirs[others].sum()
        target = theirs[label] * (theirs[label] / ours[label]).log() + rest_theirs * (rest_theirs / rest_ours).log()
        hat_ours, hat_theirs = ours[others] / rest_ours, theirs[others] / rest_theirs
        total = total + alpha * target + beta * (hat_theirs * (hat_theirs / hat_ours).log()).sum()
    return temperature**2 * total / len(labels)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dkd_equals_the_papers_probabilities_in_value_and_gradient(temperature):
    student, teacher = 3 * normal(5, 7, seed=1, dtype=torch.float64), 3 * normal(5, 7, seed=2, dtype=torch.float64)
    student.requires_grad_()
    labels = torch.tensor([0, 3, 6, 2, 3])
    values = [function(student, teacher, labels, 1.5, 8.0, temperature) for function in (dkd, by_probabilities)]
    gradients = [torch.autograd.grad(value, student)[0].flatten().tolist() for value in values]
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-10)
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-8, abs=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_is_dkd_whose_second_weight_is_what_the_teacher_leaves_the_others(temperature):
    # Section 3.1: KD = TCKD + (1 - p_y) NCKD, sample by sample
    student, teacher, label = normal(1, 7, seed=1, dtype=torch.float64), normal(1, 7, seed=2, dtype=torch.float64), torch.tensor([4])
    left = 1 - (teacher / temperature).softmax(dim=1)[0, 4].item()
    assert dkd(student, teacher, label, 1.0, left, temperature).item() == pytest.approx(kd(student, teacher, temperature).item(), rel=1e-10)


def test_saturated_logits_give_what_is_right_where_the_logarithm_of_the_share_is_infinite():
    student = torch.tensor([[0.0, 200.0, 0.0]], requires_grad=True)
    value = dkd(student, torch.zeros(1, 3), torch.tensor([0]), 1.0, 0.0, 1.0)
    # Teacher: 1/3 for the label. Student: exp(-200) for the label, whose logarithm is -200, though it is 0 in float32.
    assert value.item() == pytest.approx((math.log(1 / 3) + 200) / 3 + 2 / 3 * math.log(2 / 3), rel=1e-5)
    (gradient,) = torch.autograd.grad(value, student)
    assert gradient[0].tolist() == pytest.approx([-1 / 3, 1 / 3, 0], abs=1e-6)
    assert student.softmax(dim=1)[0, 0].log().isneginf()


def test_standardised_dkd_is_dkd_of_standardised_logits():
    student, teacher, labels = normal(5, 7, seed=1), normal(5, 7, seed=2), torch.arange(5)
    value = DKD(temperature=2.0, standardise=True)(outputs(7 * student), outputs(teacher - 3), batch(labels)).item()
    assert value == pytest.approx(dkd(standardise(student), standardise(teacher), labels, 1.0, 8.0, 2.0).item(), rel=1e-4)


def test_dkd_refuses_bad_arguments_soft_labels_and_networks_of_different_classes():
    assert DKD.takes_soft_labels is False
    with pytest.raises(RecipeError, match="temperature must be above 0, got 0"):
        DKD(temperature=0)
    with pytest.raises(RecipeError, match="alpha must be 0 or more, got -1"):
        DKD(alpha=-1)
    with pytest.raises(RecipeError, match="beta must be 0 or more, got nan"):
        DKD(beta=float("nan"))
    with pytest.raises(RecipeError, match="student has 10 classes and the teacher 1000"):
        DKD().setup(info(10), info(1000))
