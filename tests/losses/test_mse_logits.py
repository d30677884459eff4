"""Logit matching against values worked by hand, and as the limit of kd."""

import pytest
import torch
from helpers import batch, info, normal, outputs

from distill.errors import RecipeError
from distill.losses.kd import kd
from distill.losses.mse_logits import MSELogits


def test_mse_logits_by_hand():
    # Ba and Caruana, 2014, equation 1, as a mean: differences (1, 0, -2) and (0, 3, 0): (1 + 4 + 9) / 6
    student, teacher = torch.tensor([[1.0, 2.0, 3.0], [0.0, 4.0, 0.0]]), torch.tensor([[0.0, 2.0, 5.0], [0.0, 1.0, 0.0]])
    assert MSELogits()(outputs(student), outputs(teacher), batch([0, 0])).item() == pytest.approx(14 / 6, rel=1e-6)


def test_kd_tends_to_half_of_mse_logits():
    # Kim et al., 2021, section 3: T^2 KL tends to the squared distance over 2 K where the logits' means are equal
    student, teacher = normal(5, 7, seed=1, dtype=torch.float64), normal(5, 7, seed=2, dtype=torch.float64)
    student, teacher = student - student.mean(dim=1, keepdim=True), teacher - teacher.mean(dim=1, keepdim=True)
    value = MSELogits()(outputs(student), outputs(teacher), batch([0] * 5))
    assert value.item() == pytest.approx(2 * kd(student, teacher, 1e4).item(), rel=1e-3)


def test_mse_logits_sees_a_shift_that_kd_does_not():
    student = normal(5, 7)
    assert MSELogits()(outputs(student + 2), outputs(student), batch([0] * 5)).item() == pytest.approx(4, rel=1e-5)


def test_mse_logits_refuses_networks_of_different_classes():
    with pytest.raises(RecipeError, match="student has 10 classes and the teacher 1000"):
        MSELogits().setup(info(10), info(1000))
