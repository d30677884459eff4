"""WKD-F: distance of Gaussians worked by hand, cells, and channels without spread."""

import math

import pytest
import torch
from helpers import batch, info, normal, outputs

from distill.errors import RecipeError
from distill.losses.wkd_f import WKDFeature, gaussians, wkd_f
from distill.structures import FeatureShape


def test_wkd_f_by_hand():
    # Squared 2-Wasserstein distance of diagonal Gaussians, mean term twice: 2 (m_s - m_t)^2 + (d_s - d_t)^2, summed over channels, mean over samples.
    student = torch.tensor([[[[1.0, 3.0]], [[0.0, 0.0]]], [[[5.0, 5.0]], [[2.0, 4.0]]]], dtype=torch.float64)  # [2, 2, 1, 2]
    teacher = torch.tensor([[[[2.0, 8.0]], [[1.0, 1.0]]], [[[5.0, 5.0]], [[4.0, 2.0]]]], dtype=torch.float64)
    deviations = (math.sqrt(1 + 1e-5) - math.sqrt(9 + 1e-5)) ** 2  # of 1, 3 and of 2, 8; the other channel has none
    first = 2 * (2 - 5) ** 2 + deviations + 2 * (0 - 1) ** 2
    assert wkd_f(student, teacher, 2.0, 1).item() == pytest.approx(first / 2, rel=1e-9)  # the second sample's Gaussians are equal
    assert wkd_f(student, teacher, 0.5, 1).item() == pytest.approx((first - 1.5 * 10) / 2, rel=1e-9)


def test_cells_are_those_of_adaptive_pooling():
    feature_map = normal(2, 3, 7, 5, dtype=torch.float64)
    mean, deviation = gaussians(feature_map, 2)
    cell = feature_map[:, :, 3:7, 0:3]  # rows ceil, columns floor: halves of 7 and of 5 overlap by one
    assert torch.allclose(mean[:, :, 1, 0], cell.mean(dim=(2, 3)))
    assert torch.allclose(deviation[:, :, 1, 0], (cell.var(dim=(2, 3), unbiased=False) + 1e-5).sqrt())
    assert wkd_f(feature_map, torch.zeros_like(feature_map), 1.0, 2).item() == pytest.approx(
        (mean.square() + (deviation - math.sqrt(1e-5)).square()).sum().item() / (2 * 4), rel=1e-9
    )


def test_a_map_of_one_place_has_no_spread_and_a_finite_gradient():
    # The authors' unbiased variance is not a number here.
    student = normal(3, 4, 1, 1, seed=1).requires_grad_()
    value = wkd_f(student, normal(3, 4, 1, 1, seed=2), 2.0, 1)
    assert value.item() == pytest.approx(2 * (student - normal(3, 4, 1, 1, seed=2)).square().sum().item() / 3, rel=1e-5)
    value.backward()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("level", [0.0, 1000.0])
def test_a_channel_that_is_the_same_everywhere_deviates_by_the_epsilon_alone(level):
    constant = torch.full((2, 3, 4, 4), level).requires_grad_()
    _, deviation = gaussians(constant, 2)
    assert deviation.flatten().tolist() == pytest.approx([math.sqrt(1e-5)] * 24, rel=1e-4)
    deviation.sum().backward()
    assert constant.grad.isfinite().all()


def test_it_sums_over_layers_and_trains_their_projectors():
    loss = WKDFeature(layers=["layer3", "layer4"])
    loss.setup(
        info(layer3=FeatureShape(2, 4, 4), layer4=FeatureShape(3, 2, 2)),
        info(layer3=FeatureShape(5, 4, 4), layer4=FeatureShape(6, 2, 2)),
    )
    ours, theirs = {"layer3": normal(3, 2, 4, 4), "layer4": normal(3, 3, 2, 2)}, {"layer3": normal(3, 5, 4, 4), "layer4": normal(3, 6, 2, 2)}
    value = loss(outputs(**ours), outputs(**theirs), batch([0, 0, 0]))
    parts = [wkd_f(project(ours[name]), theirs[name], 2.0, 1) for name, project in zip(ours, loss.projectors, strict=True)]
    assert value.item() == pytest.approx(sum(parts).item(), rel=1e-5)
    value.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in loss.parameters())


def test_wkd_f_refuses_vectors_and_values_that_mean_nothing():
    with pytest.raises(RecipeError, match="the student's 'pooled' is a vector"):
        WKDFeature(layers=["pooled"]).setup(info(pooled=FeatureShape(2)), info(pooled=FeatureShape(2)))
    with pytest.raises(RecipeError, match="grid must be 1 or more, got 0"):
        WKDFeature(grid=0)
    with pytest.raises(RecipeError, match="mean_weight must be 0 or more, got -1"):
        WKDFeature(mean_weight=-1)
