"""Curriculum temperature: kd at the temperature that was learned, which is trained against the student and stays in its range."""

import math

import pytest
import torch
from helpers import batch, info, normal, outputs

from distill.errors import RecipeError
from distill.losses._standardise import standardised
from distill.losses.ctkd import CTKD, reverse_gradient
from distill.losses.kd import kd

START = 1 + 20 / (1 + math.exp(-1))  # the authors' code: t_start 1, t_end 20, and a first value of 1


def made(**arguments) -> CTKD:
    loss = CTKD(**arguments)
    loss.setup(info(7), info(7))
    return loss


def test_reverse_gradient_keeps_the_value_and_turns_the_gradient():
    values = torch.tensor([1.0, -3.0], requires_grad=True)
    turned = reverse_gradient(values, 0.25)
    assert turned.tolist() == [1.0, -3.0]
    (turned * torch.tensor([2.0, 8.0])).sum().backward()
    assert values.grad.tolist() == [-0.5, -2.0]


def test_ctkd_by_hand():
    # Logits (d, 0), (0, d) against (0, 0), (0, d): KL of the first sample from (1/2, 1/2) to (e, 1) / (1 + e) with e = exp(d / T).
    loss = CTKD()
    loss.setup(info(2), info(2))
    student, teacher = torch.tensor([[8.0, 0.0], [0.0, 8.0]]), torch.tensor([[0.0, 0.0], [0.0, 8.0]])
    softened = math.exp(8 / START)
    first = 0.5 * math.log(0.5 * (1 + softened) / softened) + 0.5 * math.log(0.5 * (1 + softened))
    assert loss(outputs(student), outputs(teacher), batch([0, 0])).item() == pytest.approx(START**2 * first / 2, rel=1e-4)


def test_value_and_the_students_gradient_are_those_of_kd_at_that_temperature():
    student, teacher = normal(5, 7, seed=1).requires_grad_(), normal(5, 7, seed=2)
    values = [made()(outputs(student), outputs(teacher), batch([0] * 5)), kd(student, teacher, START)]
    gradients = [torch.autograd.grad(value, student)[0].flatten().tolist() for value in values]
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-4)
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("strength", [0.0, 0.5, torch.tensor(0.5)])
def test_the_temperature_gets_the_negative_of_its_gradient_times_the_strength(strength):
    student, teacher = 5 * normal(5, 7, seed=1, dtype=torch.float64), 5 * normal(5, 7, seed=2, dtype=torch.float64)
    loss = made().double()
    loss.strength = strength

    def value(raw: float) -> float:
        return kd(student, teacher, 1 + 20 / (1 + math.exp(-raw))).item()

    loss(outputs(student), outputs(teacher), batch([0] * 5)).backward()
    slope = (value(1 + 1e-5) - value(1 - 1e-5)) / 2e-5
    assert abs(slope) > 1e-2
    assert loss.raw_temperature.grad.item() == pytest.approx(-float(strength) * slope, rel=1e-5, abs=1e-12)


def test_training_the_temperature_makes_the_loss_larger():
    student, teacher, loss = 5 * normal(5, 7, seed=1), 5 * normal(5, 7, seed=2), made()
    optimizer, values = torch.optim.SGD(loss.parameters(), lr=0.01), []
    for _ in range(5):
        values.append(loss(outputs(student), outputs(teacher), batch([0] * 5)))
        optimizer.zero_grad()
        values[-1].backward()
        optimizer.step()
    assert [value.item() for value in values] == sorted(value.item() for value in values)
    assert values[-1] > values[0]


@pytest.mark.parametrize(("raw", "temperature"), [(-1e4, 2.0), (0.0, 5.0), (1e4, 8.0)])
def test_the_temperature_stays_in_its_range(raw, temperature):
    student, teacher, loss = normal(5, 7, seed=1), normal(5, 7, seed=2), made(min_temperature=2.0, max_temperature=8.0)
    loss.raw_temperature.data.fill_(raw)
    value = loss(outputs(student), outputs(teacher), batch([0] * 5))
    value.backward()
    assert value.item() == pytest.approx(kd(student, teacher, temperature).item(), rel=1e-5)
    assert loss.raw_temperature.grad.isfinite()


def test_standardised_ctkd_is_kd_of_standardised_logits():
    student, teacher = normal(5, 7, seed=1), normal(5, 7, seed=2)
    value = made(standardise=True)(outputs(student), outputs(teacher), batch([0] * 5)).item()
    assert value == pytest.approx(kd(*standardised(student, teacher), START).item(), rel=1e-4)


def test_ctkd_compiles_without_a_break():
    student, teacher, loss = outputs(normal(5, 7, seed=1).requires_grad_()), outputs(normal(5, 7, seed=2)), made()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    gradients = [torch.autograd.grad(call(student, teacher, batch([0] * 5)), loss.raw_temperature)[0].item() for call in (compiled, loss)]
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-4)


def test_ctkd_refuses_bad_arguments_and_networks_of_different_classes():
    with pytest.raises(RecipeError, match="min_temperature must be above 0, got 0"):
        CTKD(min_temperature=0)
    with pytest.raises(RecipeError, match="max_temperature must be above min_temperature, got 2 and 4"):
        CTKD(min_temperature=4, max_temperature=2)
    with pytest.raises(RecipeError, match="strength must be 0 or more, got -1"):
        CTKD(strength=-1)
    with pytest.raises(RecipeError, match="student has 10 classes and the teacher 1000"):
        CTKD().setup(info(10), info(1000))
