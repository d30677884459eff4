"""Projector ensemble: the mean of several projections of the student's embedding points the way the teacher's does."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from distill.losses import _require
from distill.losses._added import added
from distill.losses.base import DistillLoss, upcast
from distill.models.projector import Projector
from distill.structures import Batch, ModelInfo, Outputs


class PEFD(DistillLoss):
    """Several linear layers with ReLU, started differently, project the student's embedding; their mean points the way the teacher's embedding does.

    Kind: feature
    Inputs: "pooled" of both, of any widths
    Equation: 1 - cos(mean over q of relu(W_q e_s + b_q), e_t); mean over the batch.
    Paper: Chen, Wang, Liu, Xu, de Hoog, Huang, 2022, arXiv 2210.15274
    Weights: CIFAR-100 25 and ImageNet 25, ce 1, without kd (the authors' scripts)
    Labels: not used
    Cost: `num_projectors` linear layers to the teacher's width, trained

    The authors' code has the ReLU too; the teacher's embedding, a mean of values after a ReLU, is never negative. Embeddings of all zeros, which
    the authors' code divides by their length, have a cosine of 0 here.
    """

    needs_all_logits = False

    def __init__(self, num_projectors: int = 3):
        """Raises RecipeError unless there is a projector."""
        super().__init__(layers=["pooled"])
        _require.positive(num_projectors=num_projectors)
        self.num_projectors = num_projectors

    def setup(self, student: ModelInfo, teacher: ModelInfo) -> None:
        self.projectors = nn.ModuleList(Projector(student.shapes["pooled"], teacher.shapes["pooled"]) for _ in range(self.num_projectors))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        projected = added(upcast(projector(student.features["pooled"])).relu() for projector in self.projectors)  # a sum has the mean's direction
        return 1 - F.cosine_similarity(projected, upcast(teacher.features["pooled"]), dim=1).mean()
