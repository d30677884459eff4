"""The teacher's answer raised to a power, class by class, and brought to a sum of 1 again: what ttm and wttm have the student match."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def power_divergence(student_logits: Tensor, teacher_logits: Tensor, exponent: float | Tensor) -> Tensor:
    """[N, K] and [N, K] -> [N]: KL(p^g / sum(p^g) || q), p = softmax(t), q = softmax(s). The power is softmax(g t), so that nothing underflows."""
    ours, theirs = F.log_softmax(student_logits, dim=1), F.log_softmax(exponent * teacher_logits, dim=1)
    return F.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=1)


def power_sum(logits: Tensor, exponent: float | Tensor) -> Tensor:
    """[N, K] -> [N]: sum_k p_k^g, p = softmax: from 1 for one class alone to K^(1 - g) for all classes alike, if g < 1."""
    return (exponent * F.log_softmax(logits, dim=1)).logsumexp(dim=1).exp()
