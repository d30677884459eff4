"""Teacher-free distillation against values worked by hand."""

import math

import pytest
import torch
from helpers import STUDENT, batch, info, outputs

from distill.errors import RecipeError
from distill.losses.tfkd import TeacherFree


def by_hand(answers, right, correct_probability, temperature):
    # Yuan et al., 2020: the virtual teacher's probabilities d, softened, against the student's answer
    num_classes = len(answers)
    virtual = [correct_probability if k == right else (1 - correct_probability) / (num_classes - 1) for k in range(num_classes)]
    powers = [math.exp(probability / temperature) for probability in virtual]
    softened = [power / sum(powers) for power in powers]
    return sum(v * math.log(v / q) for v, q in zip(softened, answers, strict=True))


@pytest.mark.parametrize(("correct_probability", "temperature"), [(0.99, 20.0), (0.9, 0.5)])
def test_tfkd_by_hand(correct_probability, temperature):
    value = TeacherFree(correct_probability, temperature)(outputs(STUDENT), None, batch([1, 0]))
    first = by_hand([0.25, 0.5, 0.25], 1, correct_probability, temperature)
    second = by_hand([0.6, 0.3, 0.1], 0, correct_probability, temperature)
    assert value.item() == pytest.approx((first + second) / 2, rel=1e-5)


def test_tfkd_works_without_a_teacher():
    assert TeacherFree.needs_teacher is False
    TeacherFree().setup(info(), None)


def test_tfkd_takes_soft_labels():
    loss, student = TeacherFree(0.9, 0.5), outputs(STUDENT)
    one_hot = torch.eye(3)[[1, 0]]
    assert loss(student, None, batch(one_hot)).item() == pytest.approx(loss(student, None, batch([1, 0])).item(), rel=1e-6)
    # half of each of two classes: d = 0.05 + 0.85 / 2 for both, 0.05 for the third
    powers = [math.exp(probability / 0.5) for probability in (0.475, 0.475, 0.05)]
    expected = sum(power / sum(powers) * math.log(power / sum(powers) / q) for power, q in zip(powers, (0.25, 0.5, 0.25), strict=True))
    value = loss(outputs(STUDENT[:1]), None, batch(torch.tensor([[0.5, 0.5, 0.0]])))
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_at_temperature_20_the_virtual_teacher_wants_the_student_unsure():
    unsure, certain = outputs(torch.zeros(1, 10)), outputs(20 * torch.eye(10)[:1])
    loss = TeacherFree()
    assert loss(unsure, None, batch([0])) < 1e-3 < loss(certain, None, batch([0]))


@pytest.mark.parametrize("correct_probability", [0, 1, float("nan")])
def test_tfkd_refuses_a_virtual_teacher_that_is_none(correct_probability):
    with pytest.raises(RecipeError, match=f"correct_probability must be above 0 and below 1, such as 0.99, got {correct_probability}"):
        TeacherFree(correct_probability)
