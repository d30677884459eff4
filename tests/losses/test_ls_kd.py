"""Logit standardisation by hand and against torchdistill, whose deviation divides by K - 1."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers import batch, info, normal, outputs
from torchdistill.losses.mid_level import LogitStdKDLoss

from distill.errors import RecipeError
from distill.losses.ls_kd import LogitStandardisedKD


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_ls_kd_by_hand(temperature):
    # Equation 2 of Sun et al.'s section 3.2: (x - mean) / std. Both first rows have mean m, m, m +- d, so they become 0 and +- sqrt(3 / 2).
    student = torch.tensor([[3.0, 1.0, 2.0], [1.0, 2.0, 6.0]])
    teacher = torch.tensor([[10.0, 20.0, 0.0], [-20.0, -10.0, 30.0]])  # the second row is the student's times 10 less 30
    step = math.sqrt(1.5) / temperature
    total = 1 + math.exp(step) + math.exp(-step)
    # classes of the teacher (0, step, -step), of the student (step, -step, 0); both softmaxes have the same denominator
    divergence = (1 * (0 - step) + math.exp(step) * (step + step) + math.exp(-step) * (-step - 0)) / total
    value = LogitStandardisedKD(temperature)(outputs(student), outputs(teacher), batch([0, 0]))
    assert value.item() == pytest.approx(temperature**2 * divergence / 2, rel=1e-5)


def test_ls_kd_ignores_mean_and_size_of_each_networks_logits():
    student, teacher = normal(5, 7, seed=1), normal(5, 7, seed=2)
    value = LogitStandardisedKD()(outputs(student), outputs(teacher), batch([0] * 5)).item()
    other = LogitStandardisedKD()(outputs(9 * student - 4), outputs(0.3 * teacher + 100), batch([0] * 5)).item()
    assert other == pytest.approx(value, rel=1e-3)


def test_ls_kd_equals_torchdistills_loss_at_a_temperature_that_undoes_its_deviation():
    # Theirs divides by sqrt(sum / (K - 1)): its logits are smaller by sqrt((K - 1) / K), as if its temperature were larger by the inverse.
    student, teacher = (10 * normal(5, 7, seed=seed, dtype=torch.float64) for seed in (1, 2))  # large against both guards, 1e-3 and 1e-7
    student.requires_grad_()
    labels, other = torch.arange(5), 2.0 * math.sqrt(7 / 6)
    loss = LogitStdKDLoss("head", "output", "head", "output", temperature=2.0, alpha=0.1, beta=9)
    theirs = loss({"head": {"output": student}}, {"head": {"output": teacher}}, labels)
    soft = (2.0 / other) ** 2 * LogitStandardisedKD(other)(outputs(student), outputs(teacher), batch(labels))
    ours = 0.1 * F.cross_entropy(student, labels) + 9 * soft
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    gradients = [torch.autograd.grad(value, student)[0].flatten().tolist() for value in (ours, theirs)]
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-5, abs=1e-7)


def test_ls_kd_at_equal_logits_has_a_finite_gradient():
    student = torch.zeros(3, 7, requires_grad=True)
    value = LogitStandardisedKD()(outputs(student), outputs(normal(3, 7)), batch([0] * 3))
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()
    assert student.grad.abs().sum() > 0


def test_ls_kd_refuses_bad_arguments_and_networks_of_different_classes():
    with pytest.raises(RecipeError, match="temperature must be above 0, got 0"):
        LogitStandardisedKD(temperature=0)
    with pytest.raises(RecipeError, match="student has 10 classes and the teacher 1000"):
        LogitStandardisedKD().setup(info(10), info(1000))
