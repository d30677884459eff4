"""Self-distillation: the student's teacher is the moving average of its own weights."""

from __future__ import annotations

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from distill.engine.network import Network
from distill.structures import Batch, Outputs


class EmaTeacher:
    """Answers with the average as it was after the step before, in eval mode and without gradient: the same call as a teacher that stays as it is.

    Features too, by the student's own names. Batch norms have the student's own running statistics, as the average has when it is scored. The trainer
    updates the average and has it in its checkpoints, so there is nothing else to save. Source: Tarvainen, Valpola, 2017, arXiv 1703.01780.
    """

    checksum = None  # its weights change in every step, so no run can be told by them
    form = "as given"  # nothing is done to it that would move its answers

    def __init__(self, student: Network, decay: float):
        """student: where and in what precision it will be trained."""
        self.averaged = AveragedModel(student.model, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self.network = student.like(self.averaged.module, with_hooks=True).eval().requires_grad_(False)

    def __call__(self, batch: Batch) -> Outputs:
        with torch.no_grad():
            return self.network(batch.images)
