"""Weighted soft labels by hand, a weight without gradient, and a teacher that is sure."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers import STUDENT, TEACHER, batch, info, normal, outputs

from distill.errors import RecipeError
from distill.losses.wsld import WSLD

# Zhou et al., 2021: T^2 (1 - exp(-CE(s, y) / CE(t, y))) times the cross-entropy with the softened teacher


def test_wsld_by_hand():
    # Logits of twice the logarithm: at temperature 1 the squares brought to a sum of 1, at temperature 2 the classes themselves.
    # First row, label 0: student (1, 4, 1) / 6, teacher (4, 1, 1) / 6, so the errors are ln 6 and ln 1.5; softened (1, 2, 1) / 4 and (2, 1, 1) / 4.
    first = (1 - math.exp(-math.log(6) / math.log(1.5))) * -(0.5 * math.log(0.25) + 0.25 * math.log(0.5) + 0.25 * math.log(0.25))
    # Second row: the networks agree, so the errors are equal
    second = (1 - math.exp(-1)) * -(0.6 * math.log(0.6) + 0.3 * math.log(0.3) + 0.1 * math.log(0.1))
    value = WSLD(temperature=2.0)(outputs(2 * STUDENT), outputs(2 * TEACHER), batch([0, 1]))
    assert value.item() == pytest.approx(4 * (first + second) / 2, rel=1e-5)


def test_the_weight_has_no_gradient():
    student, teacher = normal(5, 7, seed=1, dtype=torch.float64).requires_grad_(), normal(5, 7, seed=2, dtype=torch.float64)
    labels = torch.arange(5)
    (gradient,) = torch.autograd.grad(WSLD(temperature=3.0)(outputs(student), outputs(teacher), batch(labels)), student)
    errors = [F.cross_entropy(logits.detach(), labels, reduction="none") for logits in (student, teacher)]
    weight = 1 - (-errors[0] / errors[1]).exp()
    expected = weight[:, None] * 3.0 * ((student / 3).softmax(1) - (teacher / 3).softmax(1)) / 5  # cross-entropy's own gradient, T^2 / T of it
    assert gradient.flatten().tolist() == pytest.approx(expected.flatten().tolist(), rel=1e-5, abs=1e-9)


def test_a_sure_teacher_gives_a_weight_of_1_and_of_0_for_a_student_as_sure():
    sure = torch.tensor([[200.0, 0.0, 0.0]])  # its cross-entropy is 0 in float32
    student = torch.tensor([[0.0, 1.0, 0.0]], requires_grad=True)
    value = WSLD(temperature=1.0)(outputs(student), outputs(sure), batch([0]))
    assert value.item() == pytest.approx(math.log(2 + math.e), rel=1e-5)  # weight 1, and the teacher's answer is the label
    value.backward()
    assert student.grad.isfinite().all()
    assert WSLD(temperature=100.0)(outputs(sure), outputs(sure), batch([0])).item() == 0


def test_soft_labels_are_taken_as_they_are():
    student, teacher = outputs(normal(3, 4, seed=1)), outputs(normal(3, 4, seed=2))
    onehot = F.one_hot(torch.tensor([0, 3, 1]), 4).float()
    assert WSLD()(student, teacher, batch(onehot)).item() == WSLD()(student, teacher, batch([0, 3, 1])).item()
    # Half class 0 and half class 1: each network's error is the mean of its errors for the two.
    student, teacher = outputs(STUDENT[:1]), outputs(TEACHER[:1])
    weight = 1 - math.exp(-(math.log(4) + math.log(2)) / (math.log(2) + math.log(4)))
    value = WSLD(temperature=1.0)(student, teacher, batch(torch.tensor([[0.5, 0.5, 0.0]])))
    assert value.item() == pytest.approx(weight * (0.5 * math.log(4) + 0.25 * math.log(2) + 0.25 * math.log(4)), rel=1e-5)


def test_wsld_refuses_bad_arguments_and_networks_of_different_classes():
    with pytest.raises(RecipeError, match="temperature must be above 0, got 0"):
        WSLD(temperature=0)
    with pytest.raises(RecipeError, match="student has 10 classes and the teacher 1000"):
        WSLD().setup(info(10), info(1000))
