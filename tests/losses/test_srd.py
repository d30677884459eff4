"""SRD: the log-sum distance worked by hand and against torchdistill, equal embeddings, and a batch of one."""

import math

import pytest
import torch
from helpers import batch, info, normal, outputs
from torch import nn
from torchdistill.losses.mid_level import SRDLoss

from distill.errors import RecipeError
from distill.losses.srd import SRD, srd, standardise
from distill.structures import FeatureShape


def test_srd_by_hand():
    # The columns 1, 3 and 5, 1 become -1, 1 and 1, -1, but for the 1e-4 in batch norm's root; the other columns are equal.
    student, teacher = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[5.0, 2.0], [1.0, 4.0]])
    difference = 1 / math.sqrt(1.0001) + 2 / math.sqrt(4.0001)
    assert srd(student, teacher, 4.0).item() == pytest.approx(4 * math.log(difference), rel=1e-5)  # both samples have it: the mean is one of them
    assert srd(student, teacher, 2.0).item() == pytest.approx(2 * math.log(difference), rel=1e-5)


@pytest.mark.parametrize("exponent", [1.0, 4.0])
def test_srd_is_torchdistills_but_for_the_logarithm_of_the_batch(exponent):
    student, teacher = normal(6, 5, seed=1).requires_grad_(), normal(6, 5, seed=2)
    norm = nn.BatchNorm1d(5, eps=1e-4, affine=False)
    theirs = SRDLoss("f", "output", "f", "output", "l", "output", "l", "output", exponent=exponent)
    dicts = [{"f": {"output": norm(feature)}, "l": {"output": torch.zeros(6, 3)}} for feature in (student, teacher)]
    other = theirs(*dicts)  # equal logits: the KL term is 0; the factor 2 is the weight here
    value = srd(student, teacher, exponent)
    assert value.item() == pytest.approx(other.item() / 2 - math.log(6), abs=1e-5)
    ours, peers = torch.autograd.grad(value, student)[0], torch.autograd.grad(other, student)[0]
    assert torch.allclose(ours, peers / 2, atol=1e-5)


def test_equal_embeddings_have_a_finite_value_where_torchdistill_has_log_zero():
    student = normal(4, 5).requires_grad_()
    value = srd(student, student.detach(), 4.0)
    value.backward()
    assert value.item() == pytest.approx(math.log(1e-6), rel=1e-5)
    assert student.grad.isfinite().all()
    assert (standardise(student) - standardise(student)).pow(4).sum().log().isinf()


def test_the_gradient_stays_bounded_on_the_way_to_equal_embeddings():
    # The power over the power plus 1e-6 is steepest where d^4 is 3e-6, about 4 * 0.75 / (3e-6)^(1/4) = 72 in all.
    teacher = normal(8, 1, dtype=torch.float64)
    for distance in (1e-1, 1e-2, 1e-3, 1e-6):
        difference = torch.full_like(teacher, distance).requires_grad_()
        (difference.pow(4).sum(dim=1).mean() + 1e-6).log().backward()
        assert difference.grad.abs().sum() < 75


def test_a_batch_of_one_is_the_constant_without_gradient():
    student = normal(1, 5).requires_grad_()
    value = srd(student, normal(1, 5, seed=2), 4.0)
    value.backward()
    assert value.item() == pytest.approx(math.log(1e-6), rel=1e-5)
    assert student.grad.abs().sum() == 0


def test_scale_and_shift_of_a_channel_do_not_matter():
    student, teacher = normal(6, 5, seed=1), normal(6, 5, seed=2)
    assert srd(100 * student - 3, teacher, 4.0).item() == pytest.approx(srd(student, teacher, 4.0).item(), rel=1e-3)


def test_it_takes_the_global_batch_and_trains_its_projection():
    assert SRD.batch_coupled
    loss = SRD()
    loss.setup(info(pooled=FeatureShape(3)), info(pooled=FeatureShape(5)))
    loss(outputs(pooled=normal(4, 3, seed=1)), outputs(pooled=normal(4, 5, seed=2)), batch([0] * 4)).backward()
    assert loss.linear.weight.grad.abs().sum() > 0
    assert loss.linear.bias is None


@pytest.mark.parametrize("exponent", [0.5, 0, float("nan")])
def test_srd_refuses_an_exponent_below_one(exponent):
    with pytest.raises(RecipeError, match=f"exponent must be 1 or more, got {exponent}"):
        SRD(exponent=exponent)
