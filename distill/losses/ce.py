"""Cross-entropy with the labels: what a student alone learns from, and the anchor of most distillation."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from distill.errors import RecipeError
from distill.losses.base import DistillLoss
from distill.structures import Batch, Outputs


class CrossEntropy(DistillLoss):
    """What a student alone learns from: the label's share of the student's answer.

    Kind: logit
    Inputs: the student's logits, labels
    Equation: -sum_k y_k log softmax(s)_k, y the label smoothed by e: (1 - e) onehot + e / K; mean over the batch.
    Paper: smoothing: Szegedy et al., 2016, arXiv 1512.00567, section 7
    Weights: 1 alone; beside other losses what their papers say
    Labels: soft labels are taken as y
    Cost: none to speak of
    """

    needs_teacher = False
    needs_labels = True
    needs_all_logits = False

    def __init__(self, label_smoothing: float = 0.0):
        """Raises RecipeError unless 0 <= label_smoothing < 1."""
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise RecipeError(f"label_smoothing must be at least 0 and below 1, got {label_smoothing}")
        self._label_smoothing = label_smoothing

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        return F.cross_entropy(student.logits, batch.labels, label_smoothing=self._label_smoothing)
