"""VkD: a projection that stays orthonormal whatever happens to its parameter, and the distance worked by hand."""

import math

import pytest
import torch
from helpers import batch, info, normal, outputs
from torch import nn

from distill.losses.vkd import VkD, orthonormal
from distill.structures import FeatureShape


def ready(ours: int, theirs: int) -> VkD:
    loss = VkD()
    loss.setup(info(pooled=FeatureShape(ours)), info(pooled=FeatureShape(theirs)))
    return loss


def test_vkd_by_hand():
    # A parameter of 0 projects (3) to (3, 0). The teacher's (1, 5) standardised is (-1, 1): differences 4 and -1, smooth L1 of which 3.5 and 0.5.
    loss = ready(1, 2)
    with torch.no_grad():
        loss.free.zero_()
    value = loss(outputs(pooled=torch.tensor([[3.0]])), outputs(pooled=torch.tensor([[1.0, 5.0]])), batch([0]))
    assert value.item() == pytest.approx((3.5 + 0.5) / 2, rel=1e-4)
    # The other sample: (0.5, 0) against (1, -1): -0.5 and 1, of which 0.125 and 0.5. Mean over both samples and channels.
    value = loss(outputs(pooled=torch.tensor([[3.0], [0.5]])), outputs(pooled=torch.tensor([[1.0, 5.0], [9.0, 7.0]])), batch([0, 0]))
    assert value.item() == pytest.approx((3.5 + 0.5 + 0.125 + 0.5) / 4, rel=1e-4)


def test_the_blocks_are_the_cayley_transform_of_the_whole_matrix():
    free = normal(7, 3, dtype=torch.float64)
    corner, below = free[:3].tril(-1) - free[:3].tril(-1).mT, free[3:]
    whole = torch.cat([torch.cat([corner, -below.mT], dim=1), torch.cat([below, below.new_zeros(4, 4)], dim=1)])
    identity = torch.eye(7, dtype=torch.float64)
    assert torch.allclose(orthonormal(free), torch.linalg.solve(identity + whole, identity - whole)[:, :3])


@pytest.mark.parametrize(("shape", "angle"), [((2, 1), 0.7), ((2, 2), 0.7)])
def test_small_projections_by_hand(shape, angle):
    # Cayley's parameter of a turn is tan(angle / 2)
    free = torch.zeros(shape, dtype=torch.float64)
    free[1, 0] = math.tan(angle / 2)
    assert orthonormal(free)[:, 0].tolist() == pytest.approx([math.cos(angle), -math.sin(angle)])


@pytest.mark.parametrize("size", [1e-6, 1.0, 100.0])
@pytest.mark.parametrize("widths", [(16, 64), (64, 16), (16, 16), (1, 5)])
def test_any_parameter_gives_an_orthonormal_projection(widths, size):
    loss = ready(*widths)
    with torch.no_grad():
        loss.free.mul_(size)
    projection = loss.projection()
    assert projection.shape == (widths[1], widths[0])
    product = projection @ projection.mT if loss.is_narrowing else projection.mT @ projection
    assert torch.allclose(product, torch.eye(min(widths)), atol=1e-4 if size == 100 else 3e-6)


def test_it_is_still_orthonormal_after_steps_with_weight_decay_where_torchs_own_is_gone():
    loss, torchs = ready(3, 8), nn.utils.parametrizations.orthogonal(nn.Linear(3, 8, bias=False))
    student, teacher = normal(6, 3, seed=1), normal(6, 8, seed=2)
    for module, distance in (
        (loss, lambda: loss(outputs(pooled=student), outputs(pooled=teacher), batch([0] * 6))),
        (torchs, lambda: (torchs(student) - teacher).square().mean()),
    ):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, weight_decay=5e-4)
        for _ in range(5):
            optimizer.zero_grad()
            distance().backward()
            optimizer.step()
    assert torch.allclose(loss.projection().mT @ loss.projection(), torch.eye(3), atol=1e-6)
    assert torchs.weight.abs().max() == 0


def test_the_projection_survives_a_checkpoint():
    loss, other = ready(3, 8), ready(3, 8)
    assert list(loss.state_dict()) == ["free"]
    assert not torch.equal(loss.projection(), other.projection())
    other.load_state_dict(loss.state_dict())
    assert torch.equal(loss.projection(), other.projection())


def test_the_gradient_is_right_in_double_precision():
    student, teacher = normal(3, 2, seed=1, dtype=torch.float64), normal(3, 4, seed=2, dtype=torch.float64)

    def value(free, feature):
        return nn.functional.smooth_l1_loss(feature @ orthonormal(free).mT, teacher)

    assert torch.autograd.gradcheck(value, (normal(4, 2, dtype=torch.float64).requires_grad_(), student.requires_grad_()))


def test_lengths_and_angles_of_the_student_are_kept():
    loss, student = ready(5, 12), normal(4, 5)
    projected = student @ loss.projection().mT
    assert torch.allclose(projected @ projected.mT, student @ student.mT, atol=1e-5)


def test_a_dead_teacher_has_a_finite_gradient():
    loss, student = ready(3, 5), normal(2, 3).requires_grad_()
    value = loss(outputs(pooled=student), outputs(pooled=torch.zeros(2, 5)), batch([0, 0]))
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()
    assert loss.free.grad.isfinite().all()
