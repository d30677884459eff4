"""Probabilistic knowledge transfer against values worked by hand, and against torchdistill."""

import math

import pytest
import torch
from helpers import batch, normal, outputs
from torchdistill.losses.mid_level import PKTLoss

from distill.losses.pkt import ProbabilisticTransfer, neighbours


def value_of(student, teacher):
    return ProbabilisticTransfer()(outputs(pooled=student), outputs(pooled=teacher), batch([0] * len(student)))


def test_pkt_by_hand():
    # Passalis and Tefas, 2018: cosines 1 and 0 become 1 and 1/2, so rows (2/3, 1/3); the teacher's samples point one way: (1/2, 1/2).
    student, teacher = torch.tensor([[3.0, 0.0], [0.0, 0.1]]), torch.tensor([[1.0], [2.0]])
    row = 0.5 * math.log(0.5 / (2 / 3)) + 0.5 * math.log(0.5 / (1 / 3))
    assert value_of(student, teacher).item() == pytest.approx(2 * row / 4, rel=1e-4)


def test_pkt_is_torchdistills():
    peer, teacher, results = PKTLoss("fc", "input", "fc", "input"), normal(6, 9, seed=2), []
    for loss in (
        lambda features: value_of(features, teacher),
        lambda features: peer({"fc": {"input": features.clone()}}, {"fc": {"input": teacher.clone()}}),
    ):
        features = normal(6, 5, seed=1).requires_grad_()
        value = loss(features)
        results.append((value.item(), torch.autograd.grad(value, features)[0]))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-4, atol=1e-7)


def test_neighbours_are_probabilities_that_do_not_see_lengths():
    features = normal(5, 4)
    assert neighbours(features).sum(dim=1).tolist() == pytest.approx([1.0] * 5, rel=1e-5)
    lengths = torch.tensor([1.0, 20.0, 3.0, 400.0, 5.0])[:, None]
    torch.testing.assert_close(neighbours(lengths * features), neighbours(features))


def test_opposite_and_dead_samples_stay_finite():
    student = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]], requires_grad=True)  # a probability of 0, and no direction
    value = value_of(student, normal(3, 4))
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() < 1e5


def test_one_sample_alone_has_no_neighbours_to_differ_in():
    assert value_of(normal(1, 5).requires_grad_(), normal(1, 9)).item() == 0
