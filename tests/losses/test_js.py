"""Jensen-Shannon divergence against values worked by hand."""

import math

import pytest
import torch
from helpers import STUDENT, TEACHER, batch, info, normal, outputs

from distill.errors import RecipeError
from distill.losses.js import JensenShannon, jensen_shannon
from distill.losses.kd import kd


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_js_by_hand(temperature):
    # Lin, 1991, with equal weights: the middle of (0.25, 0.5, 0.25) and (0.5, 0.25, 0.25) is (0.375, 0.375, 0.25), as far from one as from the other.
    one = 0.5 * math.log(0.5 / 0.375) + 0.25 * math.log(0.25 / 0.375)
    value = JensenShannon(temperature)(outputs(temperature * STUDENT), outputs(temperature * TEACHER), batch([0, 0]))
    assert value.item() == pytest.approx(temperature**2 * one / 2, rel=1e-5)  # the second sample's answers are equal


def test_js_is_symmetric_and_bounded():
    student, teacher = normal(5, 7, seed=1), normal(5, 7, seed=2)
    assert jensen_shannon(student, teacher, 2.0).item() == pytest.approx(jensen_shannon(teacher, student, 2.0).item(), rel=1e-5)
    certain = 1000 * torch.eye(2)
    logits = certain.clone().requires_grad_()
    value = jensen_shannon(logits, certain.flip(0), 1.0)
    value.backward()
    assert value.item() == pytest.approx(math.log(2), rel=1e-6)
    assert logits.grad.isfinite().all()


def test_js_of_close_answers_is_a_quarter_of_kd():
    teacher = normal(5, 7, dtype=torch.float64)
    student = teacher + 1e-3 * normal(5, 7, seed=1, dtype=torch.float64)
    assert jensen_shannon(student, teacher, 4.0).item() == pytest.approx(kd(student, teacher, 4.0).item() / 4, rel=1e-3)


def test_js_refuses_what_makes_no_sense():
    with pytest.raises(RecipeError, match="temperature must be above 0, got -1"):
        JensenShannon(-1)
    with pytest.raises(RecipeError, match="student has 10 classes and the teacher 1000"):
        JensenShannon().setup(info(10), info(1000))
