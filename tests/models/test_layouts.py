"""Every layout of a feature as the one that losses see."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from distill.models.layouts import as_map_or_vector, num_prefix_tokens, token_grid


@pytest.mark.parametrize("shape", [(2, 5, 7, 7), (2, 7, 7, 7), (2, 5, 1, 1), (2, 5, 3, 4), (2, 9)])
def test_maps_and_vectors_stay_as_they_are(shape):
    feature = torch.randn(shape)
    assert as_map_or_vector(feature) is feature


def test_channels_last_maps_are_turned_without_a_copy():
    feature = torch.randn(2, 7, 7, 5)
    turned = as_map_or_vector(feature)
    assert turned.shape == (2, 5, 7, 7)
    assert turned[1, 3, 4, 6] == feature[1, 4, 6, 3]
    assert turned.data_ptr() == feature.data_ptr()


@pytest.mark.parametrize("num_before, said", [(0, None), (1, None), (1, 1), (2, 2), (5, 5), (0, 1), (3, 3)])
def test_tokens_are_laid_on_their_grid_without_a_copy(num_before, said):
    feature = torch.randn(2, num_before + 16, 6)
    laid = as_map_or_vector(feature, said)
    assert laid.shape == (2, 6, 4, 4)
    assert torch.equal(laid[:, :, 2, 3], feature[:, num_before + 2 * 4 + 3])
    assert laid.untyped_storage().data_ptr() == feature.untyped_storage().data_ptr()


@pytest.mark.parametrize("num_tokens", [0, 8, 450, 20])
def test_tokens_of_no_square_grid_have_none(num_tokens):
    assert token_grid(num_tokens) == 0


def test_a_network_that_says_nothing_of_its_tokens():
    assert num_prefix_tokens(nn.Linear(2, 2)) is None
