"""Losses that do to a run what machines and people do to it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import torch

from distill.errors import DataError
from distill.losses.base import DistillLoss

RANK = os.environ.get("RANK", "0")


class WritesItsPid(DistillLoss):
    """Leaves a file pid-RANK when training has begun."""

    def __init__(self):
        super().__init__(layers=[])
        self.calls = 0

    def forward(self, student, teacher, batch):
        self.calls += self.training
        if self.calls == 3:
            Path(f"pid-{RANK}.new").write_text(str(os.getpid()))
            Path(f"pid-{RANK}.new").rename(f"pid-{RANK}")
        return student.logits.mean()


class AsksToStop(DistillLoss):
    """Sends SIGTERM to its own process in the training step that STOP_AT counts, if it is set; the second of two processes does not."""

    def __init__(self):
        super().__init__(layers=[])
        self.calls = 0

    def forward(self, student, teacher, batch):
        self.calls += self.training
        if self.training and RANK == "0" and self.calls == int(os.environ.get("STOP_AT", "0")):
            os.kill(os.getpid(), signal.SIGTERM)
        return student.logits.mean()


class Fails(DistillLoss):
    """The second process fails in its third step."""

    def __init__(self, how: str = "raises"):
        super().__init__(layers=[])
        self.how, self.calls = how, 0

    def forward(self, student, teacher, batch):
        self.calls += self.training
        if RANK == "1" and self.calls == 3:
            if self.how == "raises":
                raise DataError("the second process has had enough")
            os.kill(os.getpid(), signal.SIGKILL)
        return student.logits.mean()


class NotFinite(DistillLoss):
    """Is finite but for the picture with this sample id, or has a gradient that is not."""

    def __init__(self, sample_id: int = 0, view: int = 0, gradient_only: bool = False):
        super().__init__(layers=[])
        self.sample_id, self.view, self.gradient_only = sample_id, view, gradient_only

    def forward(self, student, teacher, batch):
        is_bad = self.training and bool(((batch.sample_ids == self.sample_id) & (batch.view == self.view)).any())
        value = student.logits.square().mean()
        if is_bad and self.gradient_only:
            zero = (student.logits - student.logits.detach()).abs().sum()
            return value + torch.sqrt(zero)  # 0, with a gradient of 0 / 0
        return value / (0.0 if is_bad else 1.0)
