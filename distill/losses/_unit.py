"""Vectors brought to length 1, for losses that look at directions."""

from __future__ import annotations

from torch import Tensor

from distill.losses.base import upcast

_EPSILON = 1e-4  # bounds the gradient of a vector that is zero; far below the length of any feature that lives


def unit(vectors: Tensor) -> Tensor:
    """[..., D] -> [..., D] in float32 or float64: each vector with length 1; a vector of zeros stays zero."""
    vectors = upcast(vectors)
    return vectors / (vectors.square().sum(dim=-1, keepdim=True) + _EPSILON**2).sqrt()
