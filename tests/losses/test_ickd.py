"""Inter-channel correlation: rows by hand, torchdistill, and the batch size that must not matter."""

import math

import pytest
import torch
from helpers import batch, info, normal, outputs
from torchdistill.losses.mid_level import ChSimLoss

from distill.errors import RecipeError
from distill.losses.ickd import ICKD, ickd
from distill.structures import FeatureShape

STUDENT = torch.tensor([[1.0, 0.0], [1.0, 1.0]]).reshape(1, 2, 1, 2)  # channels by places; G = (1, 1), (1, 2)
TEACHER = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).reshape(1, 2, 1, 2)  # G = (1, 0), (0, 1)


def test_ickd_by_hand():
    # rows of length 1: (1, 1) / sqrt 2 and (1, 2) / sqrt 5 against (1, 0) and (0, 1); sum of squared differences over C = 2
    first = (1 / math.sqrt(2) - 1) ** 2 + 1 / 2
    second = 1 / 5 + (2 / math.sqrt(5) - 1) ** 2
    assert ickd(STUDENT, TEACHER).item() == pytest.approx((first + second) / 2, rel=1e-5)


@pytest.mark.parametrize("channels, height, width", [(12, 2, 3), (3, 4, 5), (6, 1, 1)])  # fewer places than channels, more, and one
def test_ickd_is_torchdistills_times_the_batch_size(channels, height, width):
    teacher = normal(4, channels, height, width, seed=2, dtype=torch.float64)
    results = []
    for ours in (True, False):
        student = normal(4, channels, height, width, seed=1, dtype=torch.float64).requires_grad_()
        value = ickd(student, teacher) if ours else 4 * ChSimLoss.batch_loss(student, teacher)  # theirs divides by the batch size twice
        value.backward()
        results.append((value, student.grad))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-9)


def test_a_batch_twice_over_changes_nothing_where_torchdistills_halves():
    student, teacher = normal(3, 5, 2, 2, seed=1), normal(3, 5, 2, 2, seed=2)
    twice = student.repeat(2, 1, 1, 1), teacher.repeat(2, 1, 1, 1)
    assert ickd(*twice).item() == pytest.approx(ickd(student, teacher).item(), rel=1e-5)
    assert ChSimLoss.batch_loss(*twice).item() == pytest.approx(ChSimLoss.batch_loss(student, teacher).item() / 2, rel=1e-5)


def test_ickd_of_equal_correlations_is_zero_whatever_the_scale():
    maps = normal(3, 5, 2, 2, seed=1)
    assert ickd(7 * maps, 0.01 * maps).item() == pytest.approx(0, abs=1e-6)
    assert ickd(maps, maps.flip(3)).item() == pytest.approx(0, abs=1e-6)  # places are summed over: their order does not matter


def test_maps_of_different_sizes_are_compared():
    student, teacher = normal(2, 5, 4, 4, seed=1), normal(2, 5, 4, 4, seed=2)
    padded = torch.nn.functional.pad(student, (0, 3, 0, 2))  # places of zeros add nothing to a correlation
    assert ickd(padded, teacher).item() == pytest.approx(ickd(student, teacher).item(), rel=1e-5)


def test_a_dead_channel_counts_its_teachers_row_and_has_a_finite_gradient():
    student = torch.zeros(2, 4, 2, 2, requires_grad=True)
    value = ickd(student, normal(2, 4, 2, 2))
    value.backward()
    assert value.item() == pytest.approx(1, rel=1e-5)  # rows of length 1 against rows of zeros
    assert student.grad.isfinite().all()


def test_big_half_precision_maps_stay_finite():
    loss = ICKD(layers=["layer4"])
    loss.setup(info(layer4=FeatureShape(3, 2, 2)), info(layer4=FeatureShape(5, 2, 2)))
    maps = 1e4 * normal(2, 5, 2, 2, seed=2)
    value = loss(outputs(layer4=maps[:, :3].half()), outputs(layer4=maps.half()), batch([0, 0]))
    assert value.dtype == torch.float32
    assert value.isfinite()


def test_ickd_projects_to_the_teachers_width_and_keeps_its_own_size():
    loss = ICKD(layers=["layer3", "layer4"])
    shapes = {"layer3": FeatureShape(2, 6, 6), "layer4": FeatureShape(3, 2, 2)}
    loss.setup(info(**shapes), info(layer3=FeatureShape(4, 3, 3), layer4=FeatureShape(5, 2, 2)))
    features = {"layer3": normal(2, 2, 6, 6, seed=1), "layer4": normal(2, 3, 2, 2, seed=2)}
    targets = {"layer3": normal(2, 4, 3, 3, seed=3), "layer4": normal(2, 5, 2, 2, seed=4)}
    value = loss(outputs(**features), outputs(**targets), batch([0, 0]))
    expected = sum(ickd(projector(features[layer]), targets[layer]) for layer, projector in zip(loss.layers, loss.projectors, strict=True))
    assert loss.projectors[0](features["layer3"]).shape == (2, 4, 6, 6)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("whose", ["student", "teacher"])
def test_ickd_refuses_vectors(whose):
    shapes = {"student": FeatureShape(3, 8, 8), "teacher": FeatureShape(3, 8, 8)} | {whose: FeatureShape(3)}
    with pytest.raises(RecipeError, match=f"the {whose}'s 'pooled' is a vector"):
        ICKD(layers=["pooled"]).setup(info(pooled=shapes["student"]), info(pooled=shapes["teacher"]))
