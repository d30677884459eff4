"""Similarity-preserving distillation against values worked by hand, and what torchdistill makes of it."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers import batch, normal, outputs
from torchdistill.losses.mid_level import SPKDLoss

from distill.losses.sp import SimilarityPreserving, similarities

STUDENT, TEACHER = torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.eye(2)


def test_sp_by_hand():
    # Tung and Mori, 2019, section 3: products (1, 1) and (1, 2), of lengths sqrt 2 and sqrt 5, against (1, 0) and (0, 1); the square over N^2 = 4
    first = (math.sqrt(0.5) - 1) ** 2 + math.sqrt(0.5) ** 2
    second = math.sqrt(0.2) ** 2 + (2 * math.sqrt(0.2) - 1) ** 2
    loss = SimilarityPreserving(layers=["layer4"])
    value = loss(outputs(layer4=STUDENT.view(2, 2, 1, 1)), outputs(layer4=TEACHER.view(2, 2, 1, 1)), batch([0, 0]))
    assert value.item() == pytest.approx((first + second) / 4, rel=1e-5)
    both = SimilarityPreserving(layers=["layer3", "layer4"])
    value = both(outputs(layer3=STUDENT, layer4=STUDENT), outputs(layer3=TEACHER, layer4=TEACHER), batch([0, 0]))
    assert value.item() == pytest.approx(2 * (first + second) / 4, rel=1e-5)


def test_torchdistill_scales_rows_by_the_sum_of_absolute_values():
    # (1/2, 1/2) and (1/3, 2/3) in place of length 1: its `normalize(x, 1)` sets p, where the paper's L2 norm along dimension 1 was meant.
    peer = SPKDLoss("layer4", "layer4", reduction="batchmean")
    value = peer({"layer4": {"output": STUDENT}}, {"layer4": {"output": TEACHER}})
    assert value.item() == pytest.approx((2 * 0.5**2 + 2 * (1 / 3) ** 2) / 4, rel=1e-5)
    student, teacher = normal(8, 5, 2, 2, seed=1), normal(8, 7, 3, 3, seed=2)
    ours = SimilarityPreserving()(outputs(layer4=student), outputs(layer4=teacher), batch([0] * 8))
    theirs = peer({"layer4": {"output": student}}, {"layer4": {"output": teacher}})
    assert ours > 3 * theirs
    rescaled = [F.normalize(similarities(maps), p=1, dim=1) for maps in (student, teacher)]
    assert (rescaled[0] - rescaled[1]).square().mean().item() == pytest.approx(theirs.item(), rel=1e-4)


def test_sp_sees_neither_the_scale_of_all_features_nor_a_rotation():
    teacher = normal(6, 5, dtype=torch.float64)
    student = 7 * teacher @ torch.linalg.qr(normal(5, 5, seed=1, dtype=torch.float64))[0]
    assert SimilarityPreserving()(outputs(layer4=student), outputs(layer4=teacher), batch([0] * 6)).item() == pytest.approx(0, abs=1e-12)


def test_products_of_big_half_precision_maps_are_taken_in_float32():
    maps = 100 * normal(4, 8, 5, 5)
    torch.testing.assert_close(similarities(maps.half()), similarities(maps), rtol=1e-2, atol=1e-2)


def test_dead_maps_have_a_finite_gradient():
    dead = torch.zeros(3, 4, 2, 2, requires_grad=True)
    value = SimilarityPreserving()(outputs(layer4=dead), outputs(layer4=normal(3, 4, 2, 2)), batch([0] * 3))
    value.backward()
    assert value.item() == pytest.approx(1 / 3, rel=1e-5)  # three rows of length 1, over 9
    assert dead.grad.isfinite().all()
