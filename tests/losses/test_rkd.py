"""Relational knowledge distillation against values worked by hand, and against torchdistill."""

import pytest
import torch
from helpers import batch, info, normal, outputs
from torchdistill.losses.mid_level import RKDLoss

from distill.errors import RecipeError
from distill.losses.rkd import RelationalKD, angles, differences
from distill.structures import FeatureShape


def value_of(loss, student, teacher):
    return loss(outputs(pooled=student), outputs(pooled=teacher), batch([0] * len(student)))


def test_rkd_by_hand():
    # Student: a right triangle of sides 3, 4, 5, so 0.75, 1, 1.25 of their mean. Teacher: all sides equal. Park et al., 2019, section 3.2:
    # 0.25^2 / 2 for two of the sides, each in two directions, among 3^2 pairs.
    student, teacher = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]), torch.eye(3)
    by_distance = 2 * 2 * 0.25**2 / 2 / 9
    # Cosines at the corners: 0, 9 / (3 * 5), 16 / (4 * 5) against 1/2; in two directions, among 3^3 triples.
    by_angle = 2 * (0.5**2 + 0.1**2 + 0.3**2) / 2 / 27
    assert value_of(RelationalKD(angles=0), student, teacher).item() == pytest.approx(25 * by_distance, rel=1e-4)
    assert value_of(RelationalKD(distances=0), student, teacher).item() == pytest.approx(50 * by_angle, rel=1e-4)
    assert value_of(RelationalKD(), student, teacher).item() == pytest.approx(25 * by_distance + 50 * by_angle, rel=1e-4)


def test_angles_are_at_the_first_sample_named():
    corner = angles(differences(torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])))
    assert corner[0, 1, 2].item() == pytest.approx(0, abs=1e-6)
    assert corner[1, 0, 2].item() == pytest.approx(0.6, rel=1e-6)
    assert corner[2, 2, 0].item() == 0


def test_rkd_is_torchdistills():
    teacher, results = normal(6, 9, seed=2), []
    peer = RKDLoss("pooled", "pooled", dist_factor=25.0, angle_factor=50.0, reduction="mean")
    for loss in (
        lambda features: value_of(RelationalKD(), features, teacher),
        lambda features: peer({"pooled": {"output": features}}, {"pooled": {"output": teacher}}),
    ):
        features = normal(6, 5, seed=1).requires_grad_()
        value = loss(features)
        results.append((value.item(), torch.autograd.grad(value, features)[0]))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-4, atol=1e-5)


def test_rkd_sees_neither_place_nor_size_nor_rotation():
    teacher = normal(6, 5, dtype=torch.float64)
    rotation = torch.linalg.qr(normal(5, 5, seed=1, dtype=torch.float64))[0]
    assert value_of(RelationalKD(), 7 * teacher @ rotation + 3, teacher).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("student", [torch.zeros(4, 5), normal(1, 5).expand(4, 5), normal(2, 5)[[0, 1, 1, 0]]])
def test_equal_samples_have_a_finite_gradient(student):
    student = student.clone().requires_grad_()
    value = value_of(RelationalKD(), student, normal(4, 9))
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()


def test_one_sample_alone_has_no_relations():
    assert value_of(RelationalKD(), normal(1, 5).requires_grad_(), normal(1, 9)).item() == 0


def test_rkd_says_how_much_memory_the_angles_take():
    loss = RelationalKD()
    loss.setup(info(pooled=FeatureShape(512)), info(pooled=FeatureShape(2048)))
    assert loss.extra_bytes(1024) > 1024**3 * 12


def test_rkd_refuses_a_factor_below_zero():
    with pytest.raises(RecipeError, match="angles must be 0 or more, got -50"):
        RelationalKD(angles=-50)
