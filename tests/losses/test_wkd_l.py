"""Wasserstein distillation of logits against values worked by hand and scipy's linear programs."""

import math

import numpy as np
import pytest
import torch
from helpers import STUDENT, TEACHER, batch, normal, outputs
from scipy.optimize import linprog

from distill.errors import RecipeError
from distill.losses.wkd_l import WassersteinLogits, class_distances, transport_cost
from distill.structures import ModelInfo

HEAD = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])  # cosines: 0 between the first two, 1 / sqrt 2 to the third


def info(head=HEAD):
    return ModelInfo("net", 3 if head is None else len(head), {}, head)


def made(**arguments):
    loss = WassersteinLogits(**arguments)
    loss.setup(info(), info())
    return loss


def by_hand(p, q, cost, regularisation, iterations):
    """Cuturi, 2013: scalings from 1, then turn about; p's marginal is exact at the end."""
    kernel = [[math.exp(-c / regularisation) for c in row] for row in cost]
    places = range(len(p))
    u = [1.0] * len(p)
    for _ in range(iterations):
        v = [q[j] / sum(kernel[i][j] * u[i] for i in places) for j in places]
        u = [p[i] / sum(kernel[i][j] * v[j] for j in places) for i in places]
    return sum(u[i] * kernel[i][j] * v[j] * cost[i][j] for i in places for j in places)


def test_class_distances_by_hand():
    expected = torch.tensor([[0, 1, 1 - math.sqrt(0.5)], [1, 0, 1 - math.sqrt(0.5)], [1 - math.sqrt(0.5), 1 - math.sqrt(0.5), 0]])
    torch.testing.assert_close(class_distances(HEAD, 2.0), 1 - torch.exp(-2 * expected))


def test_wkd_l_by_hand():
    # First sample, label 1: classes 0 and 2 remain, at a distance of c: student (1/2, 1/2), teacher (2/3, 1/3). Second, label 0: classes 1 and 2
    # remain, at the same distance, (3/4, 1/4) for both. Target terms: -0.25 ln 0.5 and -0.6 ln 0.6.
    c = 1 - math.exp(-(1 - math.sqrt(0.5)))
    cost = [[0, c], [c, 0]]
    transport = [by_hand(*pair, cost, 0.05, 10) for pair in (((1 / 2, 1 / 2), (2 / 3, 1 / 3)), ((3 / 4, 1 / 4), (3 / 4, 1 / 4)))]
    target = [-0.25 * math.log(0.5), -0.6 * math.log(0.6)]
    value = made(temperature=1.0)(outputs(STUDENT), outputs(TEACHER), batch([1, 0]))
    assert value.item() == pytest.approx((sum(target) + 30 * sum(transport)) / 2, rel=1e-5)
    # The temperature softens the transport alone: at 2 the second sample's share goes as the root of the first's.
    value = made(temperature=2.0)(outputs(STUDENT[:1]), outputs(TEACHER[:1]), batch([1]))
    share = math.sqrt(2) / (1 + math.sqrt(2))
    assert value.item() == pytest.approx(target[0] + 30 * by_hand((1 / 2, 1 / 2), (share, 1 - share), cost, 0.05, 10), rel=1e-5)


def test_transport_tends_to_the_linear_program():
    p, q = (normal(1, 5, seed=seed, dtype=torch.float64).softmax(dim=1) for seed in (1, 2))
    cost = class_distances(normal(5, 8, dtype=torch.float64), 1.0)
    value = transport_cost(p.log(), q.log(), torch.zeros(1, 5, dtype=torch.float64), cost, 0.005, 2000)
    marginals = np.stack([np.kron(np.eye(5), np.ones(5))[i] for i in range(5)] + [np.kron(np.ones(5), np.eye(5)[i]) for i in range(5)])
    exact = linprog(cost.flatten().numpy(), A_eq=marginals, b_eq=torch.cat([p[0], q[0]]).numpy())
    assert value.item() == pytest.approx(exact.fun, rel=1e-2)


def test_to_mistake_a_class_for_one_like_it_costs_less():
    # The teacher's rest is all on class 2. The student's on class 1, half as far from it as class 0, costs less than on class 0.
    head = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0], [-1.0, 0.0, 0.0]])
    loss = WassersteinLogits(gamma=1.0, temperature=1.0)
    loss.setup(info(head), info(head))
    certain = 20 * torch.eye(4)
    teacher = outputs(certain[2:3])
    alike, unlike = (loss(outputs(certain[k : k + 1]), teacher, batch([3])).item() for k in (1, 0))
    assert alike < unlike


def test_wkd_l_stays_finite_for_saturated_logits_and_two_classes():
    for scale in (0.0, 100.0, 1e4):
        logits = (scale * normal(4, 3)).requires_grad_()
        value = made()(outputs(logits), outputs(-scale * normal(4, 3, seed=1)), batch([0, 1, 2, 0]))
        value.backward()
        assert value.isfinite(), scale
        assert logits.grad.isfinite().all(), scale
    loss = WassersteinLogits()
    loss.setup(info(HEAD[:2]), info(HEAD[:2]))
    student, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]])  # nothing is left to move: the target term alone
    assert loss(outputs(student), outputs(teacher), batch([0])).item() == pytest.approx(0.5 * math.log(1 + math.exp(-1)), rel=1e-5)


def test_wkd_l_gradient_is_right_in_double_precision():
    loss, teacher = made(gamma=3.0), outputs(normal(3, 3, seed=2, dtype=torch.float64))
    logits = normal(3, 3, seed=1, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: loss(outputs(logits), teacher, batch([0, 1, 2])), logits)


def test_wkd_l_keeps_no_cost_matrix_for_each_sample():
    loss = WassersteinLogits()
    loss.setup(info(normal(1000, 8)), info(normal(1000, 8)))
    assert loss.extra_bytes(256) < 256 * 1000 * 1000 * 4 / 10
    assert "cost" not in loss.state_dict()


def test_wkd_l_refuses_what_makes_no_sense():
    with pytest.raises(RecipeError, match=r"regularisation must be 0\.02 or more, such as 0\.05, got 0\.001"):
        WassersteinLogits(regularisation=0.001)
    with pytest.raises(RecipeError, match="iterations must be above 0, got 0"):
        WassersteinLogits(iterations=0)
    with pytest.raises(RecipeError, match="the teacher's classifier as a linear layer"):
        WassersteinLogits().setup(info(), info(head=None))
