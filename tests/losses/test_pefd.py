"""Projector ensemble by hand; the projections are averaged before the cosine is taken."""

import math

import pytest
import torch
from helpers import batch, info, normal, outputs

from distill.errors import RecipeError
from distill.losses.pefd import PEFD
from distill.structures import FeatureShape


def pefd(weights: list) -> PEFD:
    """Projectors with these weights and no bias."""
    weights = torch.tensor(weights)
    loss = PEFD(num_projectors=len(weights))
    loss.setup(info(pooled=FeatureShape(weights.shape[2])), info(pooled=FeatureShape(weights.shape[1])))
    with torch.no_grad():
        for projector, weight in zip(loss.projectors, weights, strict=True):
            projector.linear.weight.copy_(weight)
            projector.linear.bias.zero_()
    return loss


def test_pefd_by_hand():
    # first sample: relu(6, -1) and relu(0, 4) give (6, 4) / 2 = (3, 2); second: relu(-6, 1) and relu(0, -4) give (0, 0.5)
    loss = pefd([[[6.0], [-1.0]], [[0.0], [4.0]]])
    teacher = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    value = loss(outputs(pooled=torch.tensor([[1.0], [-1.0]])), outputs(pooled=teacher), batch([0, 0]))
    assert value.item() == pytest.approx(((1 - 3 / math.sqrt(13)) + (1 - 1)) / 2, rel=1e-5)


def test_it_is_the_cosine_of_the_mean_and_not_the_mean_of_the_cosines():
    # (1, 0) and (0, 1) against (1, 1): the mean points there exactly, each alone only by cos 45 degrees
    loss = pefd([[[1.0], [0.0]], [[0.0], [1.0]]])
    value = loss(outputs(pooled=torch.ones(1, 1)), outputs(pooled=torch.ones(1, 2)), batch([0]))
    assert value.item() == pytest.approx(0, abs=1e-6)


def test_pefd_does_not_see_the_length_of_either_embedding():
    loss = pefd([[[1.0, -2.0], [0.5, 3.0]]])
    student, teacher = normal(3, 2, seed=1), normal(3, 2, seed=2).abs()
    plain = loss(outputs(pooled=student), outputs(pooled=teacher), batch([0, 0, 0]))
    scaled = loss(outputs(pooled=5 * student), outputs(pooled=0.1 * teacher), batch([0, 0, 0]))
    assert scaled.item() == pytest.approx(plain.item(), rel=1e-5)


@pytest.mark.parametrize("whose", ["student", "teacher"])
def test_an_embedding_of_zeros_is_at_a_right_angle_with_a_finite_gradient(whose):
    loss = pefd([[[1.0, 0.0], [0.0, 1.0]]])
    student, teacher = torch.ones(1, 2), torch.ones(1, 2)
    (student if whose == "student" else teacher).zero_()
    student.requires_grad_()
    value = loss(outputs(pooled=student), outputs(pooled=teacher), batch([0]))
    value.backward()
    assert value.item() == 1
    assert student.grad.isfinite().all()


def test_projectors_start_differently_and_all_learn():
    loss = PEFD()
    loss.setup(info(pooled=FeatureShape(4)), info(pooled=FeatureShape(6)))
    weights = [projector.linear.weight for projector in loss.projectors]
    assert len(weights) == 3
    assert not torch.equal(weights[0], weights[1])
    loss(outputs(pooled=normal(8, 4, seed=1)), outputs(pooled=normal(8, 6, seed=2).abs()), batch([0] * 8)).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in loss.parameters())


def test_pefd_refuses_no_projector():
    with pytest.raises(RecipeError, match="num_projectors must be above 0, got 0"):
        PEFD(num_projectors=0)
