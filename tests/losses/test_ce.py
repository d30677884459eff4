"""Cross-entropy by hand, with smoothed and with soft labels."""

import math

import pytest
import torch
from helpers import STUDENT, batch, info, outputs

from distill.errors import RecipeError
from distill.losses.ce import CrossEntropy


def test_ce_by_hand():
    value = CrossEntropy()(outputs(STUDENT), None, batch([1, 0]))
    assert value.item() == pytest.approx(-(math.log(0.5) + math.log(0.6)) / 2, rel=1e-6)


def test_ce_with_smoothed_labels_by_hand():
    # Szegedy et al., 2016, section 7: q = 0.7 * onehot + 0.3 / 3, so 0.8 for the label and 0.1 for the others
    value = CrossEntropy(label_smoothing=0.3)(outputs(STUDENT), None, batch([1, 0]))
    first = -(0.8 * math.log(0.5) + 0.2 * math.log(0.25))
    second = -(0.8 * math.log(0.6) + 0.1 * math.log(0.3) + 0.1 * math.log(0.1))
    assert value.item() == pytest.approx((first + second) / 2, rel=1e-6)


def test_ce_takes_soft_labels():
    soft = torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.5, 0.0]])
    value = CrossEntropy()(outputs(STUDENT), None, batch(soft))
    assert value.item() == pytest.approx(-(math.log(0.5) + 0.5 * math.log(0.6) + 0.5 * math.log(0.3)) / 2, rel=1e-6)


def test_ce_works_without_a_teacher():
    assert CrossEntropy.needs_teacher is False
    CrossEntropy().setup(info(), None)


@pytest.mark.parametrize("label_smoothing", [1, 1.5, -0.1, float("nan")])
def test_ce_refuses_a_smoothing_that_leaves_no_label(label_smoothing):
    with pytest.raises(RecipeError, match=f"label_smoothing must be at least 0 and below 1, got {label_smoothing}"):
        CrossEntropy(label_smoothing=label_smoothing)
