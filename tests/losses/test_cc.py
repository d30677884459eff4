"""Correlation congruence against values worked by hand, and against torchdistill."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers import batch, normal, outputs
from torchdistill.losses.mid_level import CCKDLoss

from distill.errors import RecipeError
from distill.losses.cc import CorrelationCongruence, gaussian


def value_of(student, teacher, **arguments):
    return CorrelationCongruence(**arguments)(outputs(pooled=student), outputs(pooled=teacher), batch([0] * len(student)))


def test_cc_by_hand():
    # Peng et al., 2019, section 3, gamma 0.4 and P = 2: exp(-0.8) (1 + 0.8 x + 0.32 x^2) for an inner product x. The student's samples are at a right
    # angle, x = 0, and the teacher's point one way, x = 1: two of four pairs differ.
    student, teacher = torch.tensor([[3.0, 0.0], [0.0, 0.1]]), torch.tensor([[1.0], [2.0]])
    error = math.exp(-0.8) * (0.8 + 0.32)
    assert value_of(student, teacher).item() == pytest.approx(2 * error**2 / 4, rel=1e-5)
    assert value_of(student, teacher, kernel="bilinear").item() == pytest.approx(2 / 4, rel=1e-5)


def test_the_series_tends_to_the_gaussian_kernel():
    rows = F.normalize(normal(5, 4, dtype=torch.float64), dim=1)
    squares = (rows[:, None] - rows[None]).square().sum(dim=2)
    torch.testing.assert_close(gaussian(rows @ rows.T, 0.4, 20), (-0.4 * squares).exp())
    assert (gaussian(rows @ rows.T, 0.4, 2) - (-0.4 * squares).exp()).abs().max() < 0.05


@pytest.mark.parametrize("kernel", ["gaussian", "bilinear"])
def test_cc_is_the_square_of_torchdistills_for_unit_vectors(kernel):
    # torchdistill divides the distance of the matrices by N^2, the paper the squared distance; and it leaves the scaling to length 1 to the model.
    peer = CCKDLoss("pooled", "pooled", {"type": kernel, "gamma": 0.4, "max_p": 2}, reduction="batchmean")
    teacher, results = F.normalize(normal(6, 9, seed=2), dim=1), []
    for loss in (
        lambda features: value_of(features, teacher, kernel=kernel),
        lambda features: (36 * peer({"pooled": {"output": F.normalize(features, dim=1)}}, {"pooled": {"output": teacher}})) ** 2 / 36,
    ):
        features = normal(6, 5, seed=1).requires_grad_()
        value = loss(features)
        results.append((value.item(), torch.autograd.grad(value, features)[0]))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-4, atol=1e-6)


def test_cc_does_not_see_the_order_of_the_samples():
    # The mean over neighbours in the batch of products of errors, as in CRD's repository, does.
    student, teacher, order = normal(5, 4, seed=1), normal(5, 4, seed=2), torch.tensor([3, 0, 4, 1, 2])
    assert value_of(student[order], teacher[order]).item() == pytest.approx(value_of(student, teacher).item(), rel=1e-5)
    errors = (student - teacher).abs()
    by_neighbours = [(e[:-1] * e[1:]).sum(dim=1).mean().item() for e in (errors, errors[order])]
    assert by_neighbours[0] != pytest.approx(by_neighbours[1], rel=1e-2)


def test_cc_refuses_what_makes_no_sense():
    with pytest.raises(RecipeError, match="kernel must be 'gaussian' or 'bilinear', got 'cosine'"):
        CorrelationCongruence(kernel="cosine")
    with pytest.raises(RecipeError, match="order must be above 0, got 0"):
        CorrelationCongruence(order=0)
