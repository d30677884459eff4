"""The whole method in one forward: the student and every loss, as the one module that is optimised and wrapped for several processes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from distill.engine.network import Network
from distill.losses.base import DistillLoss
from distill.structures import Batch, Outputs, StepOutput


class Distiller(nn.Module):
    """Student and losses together, so that the optimizer, DDP and `.to` find projectors and learned temperatures without being told."""

    def __init__(self, student: Network, losses: Mapping[str, DistillLoss], weights: Mapping[str, float]):
        """losses and weights by label."""
        super().__init__()
        self.student = student
        self.losses = nn.ModuleDict(losses)
        self.weights = dict(weights)

    def forward(self, batch: Batch, teacher: Outputs | None) -> StepOutput:
        student = self.student(batch.images)
        with torch.autocast(batch.images.device.type, enabled=False):
            terms = {label: loss(student, teacher, batch) for label, loss in self.losses.items()}
            total = sum(self.weights[label] * term for label, term in terms.items())
        return StepOutput(total, {label: term.detach() for label, term in terms.items()}, student.logits.detach())
