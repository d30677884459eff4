"""Class attention transfer: maps by hand, with and without their length, and the classifiers that they come from."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers import batch, info, normal, outputs

from distill.errors import RecipeError
from distill.losses.cat_kd import CATKD, class_maps, unit_length
from distill.structures import FeatureShape, Head

CLASSIFIER = torch.tensor([[1.0, 0.0], [1.0, -1.0]])  # two classes, two channels


def network(classifier: torch.Tensor = CLASSIFIER, shape: FeatureShape = FeatureShape(2, 4, 4), layer: str = "layer4"):  # noqa: B008  a NamedTuple
    return replace(info(len(classifier), **{layer: shape}), head_weight=classifier)


def test_class_maps_by_hand():
    # 2x4 map, two halves of 2x2 cells are averaged: channel 0 is 1, 3; channel 1 is 2, 0; classes: channel 0, and channel 0 - channel 1
    feature_map = torch.tensor([[[[0.0, 2.0, 3.0, 3.0], [1.0, 1.0, 3.0, 3.0]], [[2.0, 2.0, 0.0, 0.0], [2.0, 2.0, 4.0, -4.0]]]])
    assert class_maps(feature_map, CLASSIFIER, 1).flatten().tolist() == pytest.approx([2, 1])
    rows = class_maps(feature_map, CLASSIFIER, 2)  # two rows of cells: the upper with channel 0 (1, 3) and channel 1 (2, 0)
    assert rows.shape == (1, 2, 2, 2)
    assert rows[0, :, 0].tolist() == [[1, 3], [-1, 3]]


def test_averaging_before_the_classifier_is_averaging_after_it():
    feature_map, classifier = normal(2, 6, 5, 7, seed=1), normal(3, 6, seed=2)
    after = F.adaptive_avg_pool2d(F.conv2d(feature_map, classifier[:, :, None, None]), 2)
    torch.testing.assert_close(class_maps(feature_map, classifier, 2), after, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("normalise", [True, False])
def test_cat_kd_by_hand(normalise):
    # one class, one channel, classifiers 1 and 2, grid 2: student (3, 0, 4, 0), teacher 2 * (0, 1, 0, 1)
    student, teacher = torch.tensor([3.0, 0.0, 4.0, 0.0]).reshape(1, 1, 2, 2), torch.tensor([0.0, 1.0, 0.0, 1.0]).reshape(1, 1, 2, 2)
    value = CATKD(normalise=normalise)(
        outputs(head=Head(torch.ones(1, 1), None), layer4=student), outputs(head=Head(torch.full((1, 1), 2.0), None), layer4=teacher), batch([0])
    )
    lengths = (0.6**2 + 0.8**2 + 2 * math.sqrt(0.5) ** 2) / 4
    assert value.item() == pytest.approx(lengths if normalise else (9 + 16 + 4 + 4) / 4, rel=1e-5)


def test_the_bias_does_not_matter():
    student, teacher = normal(2, 3, 4, 4, seed=1), normal(2, 5, 4, 4, seed=2)
    ours, theirs = normal(6, 3, seed=3), normal(6, 5, seed=4)
    values = [
        CATKD()(outputs(head=Head(ours, bias), layer4=student), outputs(head=Head(theirs, bias), layer4=teacher), batch([0, 0]))
        for bias in (None, normal(6))
    ]
    assert values[0] == values[1]


def test_normalised_maps_do_not_see_the_scale_of_a_class():
    student, teacher = normal(2, 2, 4, 4, seed=1), normal(2, 2, 4, 4, seed=2)
    scale = torch.tensor([[7.0], [0.5]])
    plain, scaled = (
        CATKD()(outputs(head=Head(weight, None), layer4=student), outputs(head=Head(CLASSIFIER, None), layer4=teacher), batch([0, 0]))
        for weight in (CLASSIFIER, scale * CLASSIFIER)
    )
    assert scaled.item() == pytest.approx(plain.item(), rel=1e-4)


def test_map_and_classifier_of_the_student_learn():
    student, weight = normal(2, 2, 4, 4, seed=1).requires_grad_(), CLASSIFIER.clone().requires_grad_()
    teacher = outputs(head=Head(CLASSIFIER, None), layer4=normal(2, 2, 4, 4, seed=2))
    CATKD()(outputs(head=Head(weight, None), layer4=student), teacher, batch([0, 0])).backward()
    assert student.grad.abs().sum() > 0
    assert weight.grad.abs().sum() > 0


def test_a_classifier_that_starts_at_zero_gets_a_bounded_gradient():
    weight = torch.zeros(2, 2, requires_grad=True)
    teacher = outputs(head=Head(CLASSIFIER, None), layer4=normal(2, 2, 4, 4, seed=2))
    CATKD()(outputs(head=Head(weight, None), layer4=normal(2, 2, 4, 4, seed=1)), teacher, batch([0, 0])).backward()
    assert 0 < weight.grad.abs().max().item() < 1e4
    assert unit_length(torch.zeros(1, 1, 2, 2)).tolist() == [[[[0, 0], [0, 0]]]]


def test_maps_of_other_sizes_meet_on_the_grid():
    loss = CATKD(grid=4)
    loss.setup(network(shape=FeatureShape(2, 4, 4)), network(shape=FeatureShape(2, 7, 5)))
    teacher = outputs(head=Head(CLASSIFIER, None), layer4=normal(1, 2, 7, 5))
    assert loss(outputs(head=Head(CLASSIFIER, None), layer4=normal(1, 2, 4, 4)), teacher, batch([0])).isfinite()


def test_maps_of_one_place_are_compared_unless_only_their_sign_would_be_left():
    one = network(shape=FeatureShape(2, 1, 1))
    CATKD(normalise=False).setup(one, one)
    with pytest.raises(RecipeError, match="the student's 'layer4' is a map of 1x1, and a map of one place scaled to length 1 is only a sign"):
        CATKD().setup(one, network())
    with pytest.raises(RecipeError, match=r"grid is 1, and .* set normalise: false"):
        CATKD(grid=1)
    with pytest.raises(RecipeError, match="grid must be above 0, got 0"):
        CATKD(grid=0)


def test_cat_kd_refuses_classes_layers_and_heads_that_do_not_fit():
    with pytest.raises(RecipeError, match="student has 2 classes and the teacher 3"):
        CATKD().setup(network(), network(torch.zeros(3, 2)))
    with pytest.raises(RecipeError, match="the teacher's 'layer3' has 5 channels and its classifier takes 2: take the last map"):
        CATKD(layer="layer3").setup(network(layer="layer3"), network(shape=FeatureShape(5, 4, 4), layer="layer3"))
    with pytest.raises(RecipeError, match="needs the student's classifier"):
        CATKD().setup(info(2, layer4=FeatureShape(2, 4, 4)), network())
    with pytest.raises(RecipeError, match="the student's 'layer4' is a vector"):
        CATKD().setup(network(shape=FeatureShape(2)), network())
