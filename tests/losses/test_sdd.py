"""Scale-decoupled distillation against values worked by hand, and as kd where there is but one cell."""

import math

import pytest
import torch
from helpers import batch, normal, outputs

from distill.errors import RecipeError
from distill.losses.kd import kd
from distill.losses.sdd import ScaleDecoupled
from distill.structures import FeatureShape, Head, ModelInfo


def info(num_classes=2, channels=2, height=1, width=2, head=True):
    weight = torch.eye(num_classes, channels) if head else None
    return ModelInfo("net", num_classes, {"layer4": FeatureShape(channels, height, width), "pooled": FeatureShape(channels)}, weight)


def made(*infos, **arguments):
    loss = ScaleDecoupled(**arguments)
    loss.setup(*infos)
    return loss


def kl_to_uniform(probability):
    return math.log(2) + probability * math.log(probability) + (1 - probability) * math.log(1 - probability)


def test_sdd_by_hand():
    # The classifier passes two channels on as logits. Cells of the teacher: (2 ln 3, 0), so class 0 with 0.9, and (0, ln 3), so class 1, with 0.25
    # for class 0. Their mean is (ln 3, ln 3 / 2): class 0 with 3 / (3 + sqrt 3); so the second cell is complementary. The student is undecided.
    log3 = math.log(3)
    teacher = torch.tensor([[2 * log3, 0.0], [0.0, log3]]).view(1, 2, 1, 2)
    head = Head(torch.eye(2), None)
    loss = made(info(), info(), temperature=1.0)
    value = loss(outputs(head=head, layer4=torch.zeros(1, 2, 1, 2)), outputs(head=head, layer4=teacher), batch([0]))
    whole, first, second = kl_to_uniform(3 / (3 + math.sqrt(3))), kl_to_uniform(0.9), kl_to_uniform(0.25)
    assert value.item() == pytest.approx((whole + first + 2 * second) / 3, rel=1e-5)  # grids 1x1 and 1x2; 1x4 is finer than the map
    plain = made(info(), info(), temperature=1.0, scales=[1, 2], complementary_weight=1.0)
    value = plain(outputs(head=head, layer4=torch.zeros(1, 2, 1, 2)), outputs(head=head, layer4=teacher), batch([0]))
    assert value.item() == pytest.approx((whole + first + second) / 3, rel=1e-5)


def test_on_a_map_of_one_place_sdd_is_kd():
    student, teacher, heads = normal(5, 4, 1, 1, seed=1), normal(5, 6, 1, 1, seed=2), (Head(normal(3, 4), normal(3)), Head(normal(3, 6), normal(3)))
    loss = made(info(3, 4, 1, 1), info(3, 6, 1, 1))
    assert loss.grids == [(1, 1)]
    value = loss(outputs(head=heads[0], layer4=student), outputs(head=heads[1], layer4=teacher), batch([0] * 5))
    logits = [torch.nn.functional.linear(maps.flatten(1), *head) for maps, head in zip((student, teacher), heads, strict=True)]
    assert value.item() == pytest.approx(kd(*logits, 4.0).item(), rel=1e-5)


def test_the_papers_scales_make_21_cells_and_maps_of_different_sizes_meet():
    assert made(info(height=7, width=7), info(height=7, width=7)).grids == [(1, 1), (2, 2), (4, 4)]
    assert made(info(height=7, width=7), info(height=3, width=2)).grids == [(1, 1), (2, 2), (3, 2)]
    assert made(info(height=2, width=2), info(height=2, width=2)).grids == [(1, 1), (2, 2)]


def test_both_the_students_map_and_its_classifier_learn():
    head = Head(normal(3, 4).requires_grad_(), normal(3).requires_grad_())
    student = normal(2, 4, 4, 4).requires_grad_()
    loss = made(info(3, 4, 4, 4), info(3, 6, 4, 4))
    loss(outputs(head=head, layer4=student), outputs(head=Head(normal(3, 6), None), layer4=normal(2, 6, 4, 4)), batch([0, 0])).backward()
    assert all(tensor.grad.abs().sum() > 0 for tensor in (student, *head))


def test_sdd_refuses_what_makes_no_sense():
    with pytest.raises(RecipeError, match=r"scales must be one or more whole numbers from 1 on, such as \[1, 2, 4\], got \[0, 2\]"):
        ScaleDecoupled(scales=[0, 2])
    with pytest.raises(RecipeError, match="the teacher's classifier as a linear layer"):
        made(info(), info(head=False))
    with pytest.raises(RecipeError, match="the student's 'pooled' is a vector"):
        made(info(), info(), layer="pooled")
    with pytest.raises(RecipeError, match="'layer4' has 8 channels and its classifier takes 2"):
        made(info(), ModelInfo("net", 2, {"layer4": FeatureShape(8, 1, 2)}, torch.eye(2)))
