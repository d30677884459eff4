"""Logit standardisation, an option of several losses: only the pattern of an answer is imitated, not its mean and size."""

from __future__ import annotations

from torch import Tensor

_EPSILON = 1e-3  # bounds the gradient of logits that are all equal, as a head that starts at zero gives them; else it does not matter


def standardise(logits: Tensor) -> Tensor:
    """[N, K] -> [N, K]: each row with mean 0 and standard deviation 1. Sun et al., 2024, arXiv 2403.01427, section 3.2.

    The deviation divides by K, as in the paper; the authors' code divides by K - 1. A row of equal logits becomes 0.
    """
    centred = logits - logits.mean(dim=1, keepdim=True)
    return centred / (centred.square().mean(dim=1, keepdim=True) + _EPSILON**2).sqrt()


def standardised(student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """[N, K] and [N, K] -> the same: both networks' logits, standardised."""
    return standardise(student_logits), standardise(teacher_logits)
