"""Normalised distillation by hand and against the paper's probabilities."""

import math

import pytest
import torch
from helpers import STUDENT, TEACHER, batch, info, normal, outputs

from distill.errors import RecipeError
from distill.losses.nkd import NKD, nkd

# Yang et al., 2023: the label's cross-entropy, weighed by the teacher, and that of the other classes, each network's brought to a sum of 1


def test_nkd_by_hand():
    # Logits of twice the logarithm: the label's term sees the squares brought to a sum of 1, the others' at temperature 2 the classes themselves.
    # First row, label 0: teacher (4, 1, 1) / 6, student (1, 4, 1) / 6; others (1/2, 1/2) against (2/3, 1/3).
    first = -2 / 3 * math.log(1 / 6) + 3 * 4 * -(0.5 * math.log(2 / 3) + 0.5 * math.log(1 / 3))
    # Second row, label 1: both (36, 9, 1) / 46; others (6/7, 1/7)
    second = -9 / 46 * math.log(9 / 46) + 3 * 4 * -(6 / 7 * math.log(6 / 7) + 1 / 7 * math.log(1 / 7))
    value = NKD(gamma=3.0, temperature=2.0)(outputs(2 * STUDENT), outputs(2 * TEACHER), batch([0, 1]))
    assert value.item() == pytest.approx((first + second) / 2, rel=1e-5)


def by_probabilities(student, teacher, labels, gamma, temperature):
    total = 0
    for ours, theirs, label in zip(student, teacher, labels, strict=True):
        others = [k for k in range(len(ours)) if k != label]
        soft_ours, soft_theirs = (ours / temperature).softmax(0)[others], (theirs / temperature).softmax(0)[others]
        rest = -(soft_theirs / soft_theirs.sum() * (soft_ours / soft_ours.sum()).log()).sum()
        total = total - theirs.softmax(0)[label] * ours.softmax(0)[label].log() + gamma * temperature**2 * rest
    return total / len(labels)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_nkd_equals_the_papers_probabilities_in_value_and_gradient(temperature):
    student, teacher = normal(5, 7, seed=1, dtype=torch.float64).requires_grad_(), normal(5, 7, seed=2, dtype=torch.float64)
    labels = torch.tensor([0, 3, 6, 2, 3])
    values = [function(student, teacher, labels, 1.5, temperature) for function in (nkd, by_probabilities)]
    gradients = [torch.autograd.grad(value, student)[0].flatten().tolist() for value in values]
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-10)
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-8, abs=1e-12)


def test_the_others_pull_the_student_only_by_their_shares_among_themselves():
    # Where both networks agree on the others among themselves, all the gradient is that of the label's term: p_y (q - onehot).
    teacher = torch.tensor([[2.0, 1.0, 0.5, -1.0]], dtype=torch.float64)
    student = torch.tensor([[-3.0, 1.0, 0.5, -1.0]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(nkd(student, teacher, torch.tensor([0]), 1.5, 1.0), student)
    expected = teacher.softmax(1)[0, 0] * (student.softmax(1) - torch.tensor([1.0, 0.0, 0.0, 0.0]))
    assert gradient[0].tolist() == pytest.approx(expected[0].tolist(), abs=1e-12)


def test_saturated_logits_stay_finite():
    student = torch.tensor([[0.0, 300.0, -300.0]], requires_grad=True)
    value = nkd(student, torch.tensor([[300.0, 0.0, -300.0]]), torch.tensor([0]), 1.5, 1.0)
    value.backward()
    assert value.item() == pytest.approx(300, rel=1e-6)  # the teacher is sure of the label, whose logarithm is -300; the others agree
    assert student.grad.isfinite().all()


def test_nkd_refuses_bad_arguments_soft_labels_and_networks_of_different_classes():
    assert NKD.takes_soft_labels is False
    with pytest.raises(RecipeError, match="temperature must be above 0, got 0"):
        NKD(temperature=0)
    with pytest.raises(RecipeError, match="gamma must be 0 or more, got -1"):
        NKD(gamma=-1)
    with pytest.raises(RecipeError, match="student has 10 classes and the teacher 1000"):
        NKD().setup(info(10), info(1000))
