"""DIST against values worked by hand, and against torchdistill."""

import pytest
import torch
from helpers import STUDENT, TEACHER, batch, info, normal, outputs
from torchdistill.losses.mid_level import DISTLoss

from distill.errors import RecipeError
from distill.losses.dist import DIST, correlation


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dist_by_hand(temperature):
    # Over the classes: less their mean, 1/3, the first sample's are (-1, 2, -1) / 12 and (2, -1, -1) / 12: -3 / 6 = -0.5. The second's are equal: 1.
    # Over two samples a correlation is a sign: the first class rises in both, the second falls in one and rises in the other, the third falls.
    rows, columns = 1 - (-0.5 + 1) / 2, 1 - (1 - 1 + 1) / 3
    student, teacher = outputs(temperature * STUDENT), outputs(temperature * TEACHER)
    value = DIST(temperature=temperature)(student, teacher, batch([0, 0]))
    assert value.item() == pytest.approx(temperature**2 * (rows + columns), rel=1e-5)
    weighted = DIST(beta=3, gamma=0.5, temperature=temperature)(student, teacher, batch([0, 0]))
    assert weighted.item() == pytest.approx(temperature**2 * (3 * rows + 0.5 * columns), rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dist_is_torchdistills(temperature):
    teacher, results = normal(6, 7, seed=2), []
    peer = DISTLoss(".", "output", ".", "output", tau=temperature)
    for loss in (
        lambda logits: DIST(temperature=temperature)(outputs(logits), outputs(teacher), batch([0] * 6)),
        lambda logits: peer({".": {"output": logits}}, {".": {"output": teacher}}),
    ):
        logits = normal(6, 7, seed=1).requires_grad_()
        value = loss(logits)
        results.append((value.item(), torch.autograd.grad(value, logits)[0]))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-5, atol=1e-6)


def test_correlation_sees_neither_mean_nor_spread():
    values = normal(4, 9, dtype=torch.float64)
    assert correlation(values, 3 * values + 5).tolist() == pytest.approx([1.0] * 4, rel=1e-6)
    assert correlation(values, -values).tolist() == pytest.approx([-1.0] * 4, rel=1e-6)


def test_equal_logits_in_the_student_give_a_bounded_gradient():
    logits = torch.zeros(8, 1000, requires_grad=True)
    value = DIST()(outputs(logits), outputs(normal(8, 1000)), batch([0] * 8))
    value.backward()
    assert value.item() == pytest.approx(2, rel=1e-3)
    assert 0 < logits.grad.norm() < 1e3  # authors' guard: about 1e6


def test_a_batch_of_one_has_no_term_over_classes():
    student, teacher = outputs(STUDENT[:1]), outputs(TEACHER[:1])
    assert DIST()(student, teacher, batch([0])).item() == pytest.approx(1.5, rel=1e-5)


def test_dist_is_zero_for_equal_answers_even_where_a_class_is_never_chosen():
    logits = torch.tensor([[200.0, 0.0, -200.0], [0.0, 200.0, -200.0]])
    assert DIST()(outputs(logits), outputs(logits), batch([0, 1])).item() == pytest.approx(0, abs=1e-6)


def test_dist_refuses_what_makes_no_sense():
    with pytest.raises(RecipeError, match="temperature must be above 0, got 0"):
        DIST(temperature=0)
    with pytest.raises(RecipeError, match="gamma must be 0 or more, got -1"):
        DIST(gamma=-1)
    with pytest.raises(RecipeError, match="student has 10 classes and the teacher 1000"):
        DIST().setup(info(10), info(1000))
