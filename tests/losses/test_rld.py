"""Refined logits by hand, as dkd where the teacher is right, and teachers that rank the label last."""

import math

import pytest
import torch
from helpers import STUDENT, TEACHER, batch, info, normal, outputs

from distill.errors import RecipeError
from distill.losses.dkd import dkd
from distill.losses.rld import RLD, masked_correlation, sample_confidence

# Sun et al., 2025: sample confidence and masked correlation


def test_rld_by_hand():
    # First row, label 0: the teacher is right, with 1/2 against the student's 1/4; below the label (1/2, 1/2) against (2/3, 1/3).
    first = 2 * (0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)) + 3 * (0.5 * math.log(3 / 4) + 0.5 * math.log(3 / 2))
    # Second row, label 1: the teacher's best class has 0.6, the student's label 0.3; below the label there is one class alone.
    second = 2 * (0.6 * math.log(0.6 / 0.3) + 0.4 * math.log(0.4 / 0.7))
    loss = RLD(alpha=2.0, beta=3.0, temperature=1.0)
    assert loss(outputs(STUDENT), outputs(TEACHER), batch([0, 1])).item() == pytest.approx((first + second) / 2, rel=1e-5)


def test_each_part_has_a_temperature_of_its_own():
    # Logits of twice the logarithm at temperature 2 are the classes above; the other part's weight is 0.
    student, teacher = outputs(2 * STUDENT), outputs(2 * TEACHER)
    confidence = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75) + 0.6 * math.log(2) + 0.4 * math.log(4 / 7)
    value = RLD(beta=0.0, temperature=7.0, confidence_temperature=2.0)(student, teacher, batch([0, 1]))
    assert value.item() == pytest.approx(4 * confidence / 2, rel=1e-5)
    correlation = 0.5 * math.log(3 / 4) + 0.5 * math.log(3 / 2)
    value = RLD(alpha=0.0, beta=1.0, temperature=2.0, confidence_temperature=7.0)(student, teacher, batch([0, 1]))
    assert value.item() == pytest.approx(4 * correlation / 2, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_rld_is_dkd_where_the_teacher_is_right(temperature):
    student, teacher = normal(5, 7, seed=1, dtype=torch.float64).requires_grad_(), normal(5, 7, seed=2, dtype=torch.float64)
    labels = teacher.argmax(dim=1)
    loss = RLD(alpha=1.5, beta=8.0, temperature=temperature, confidence_temperature=temperature)
    values = [loss(outputs(student), outputs(teacher), batch(labels)), dkd(student, teacher, labels, 1.5, 8.0, temperature)]
    gradients = [torch.autograd.grad(value, student)[0].flatten().tolist() for value in values]
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-10)
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-8, abs=1e-12)


def test_classes_that_the_teacher_prefers_to_the_label_or_ranks_with_it_are_left_out():
    # Label 2: class 0 is preferred, class 1 is level; among classes 3 and 4 the teacher has (2/3, 1/3), the student (1/3, 2/3).
    teacher = torch.tensor([[8.0, 4.0, 4.0, 2.0, 1.0]]).log()
    student = torch.tensor([[1.0, 9.0, 5.0, 1.0, 2.0]]).log().requires_grad_()
    value = masked_correlation(student, teacher, torch.tensor([2]), 1.0)
    assert value.item() == pytest.approx(math.log(2) / 3, rel=1e-5)  # 2/3 ln 2 - 1/3 ln 2
    (gradient,) = torch.autograd.grad(value, student)
    assert gradient[0].tolist() == pytest.approx([0, 0, 0, -1 / 3, 1 / 3], abs=1e-6)


@pytest.mark.parametrize("teacher", [[3.0, 2.0, 1.0], [1.0, 1.0, 1.0]])
def test_nothing_below_the_label_leaves_sample_confidence_alone(teacher):
    teacher, label = torch.tensor([teacher]), torch.tensor([2])
    student = torch.tensor([[0.3, -0.2, 0.1]], requires_grad=True)
    value = masked_correlation(student, teacher, label, 4.0)
    value.backward()
    assert value.item() == 0
    assert student.grad.eq(0).all()
    loss = RLD()(outputs(student), outputs(teacher), batch(label)).item()
    assert loss == pytest.approx(sample_confidence(student, teacher, label).item(), rel=1e-6)


def test_saturated_logits_give_what_is_right_where_the_logarithm_of_the_share_is_infinite():
    student = torch.tensor([[0.0, 200.0, 0.0]], requires_grad=True)
    value = sample_confidence(student, torch.zeros(1, 3), torch.tensor([0]))
    assert value.item() == pytest.approx((math.log(1 / 3) + 200) / 3 + 2 / 3 * math.log(2 / 3), rel=1e-5)
    value.backward()
    assert student.grad.isfinite().all()


def test_rld_refuses_bad_arguments_soft_labels_and_networks_of_different_classes():
    assert RLD.takes_soft_labels is False
    with pytest.raises(RecipeError, match="confidence_temperature must be above 0, got 0"):
        RLD(confidence_temperature=0)
    with pytest.raises(RecipeError, match="alpha must be 0 or more, got -1"):
        RLD(alpha=-1)
    with pytest.raises(RecipeError, match="student has 10 classes and the teacher 1000"):
        RLD().setup(info(10), info(1000))
