"""Running means of a training epoch, kept on the device and read back only when somebody wants to see them."""

from __future__ import annotations

import torch
from torch import Tensor

from distill.structures import StepOutput


class RunningMeans:
    """Means of the loss, each of its terms, and the training accuracy since the last read."""

    def __init__(self, labels: list[str]):
        """labels: the names of the loss's terms."""
        self._names = ["loss", *labels]
        self._sums: Tensor | None = None  # [number of names + 1] on the device
        self._num_batches = self._num_samples = 0

    @torch.no_grad()
    def update(self, output: StepOutput, labels: Tensor) -> None:
        """Adds one micro-batch without waiting for the device. Of mixed pictures the class with the largest share counts."""
        classes = labels if labels.ndim == 1 else labels.argmax(dim=1)
        correct = (output.logits.argmax(dim=1) == classes).sum()
        values = torch.stack([output.loss.detach(), *output.terms.values(), correct.to(output.loss.dtype)])
        self._sums = values if self._sums is None else self._sums.add_(values)
        self._num_batches += 1
        self._num_samples += len(labels)

    def read(self) -> dict[str, float]:
        """The means by name, and "top1"; waits for the device and starts anew."""
        *sums, correct = self._sums.tolist()
        means = {name: value / self._num_batches for name, value in zip(self._names, sums, strict=True)}
        means["top1"] = correct / self._num_samples
        self._sums, self._num_batches, self._num_samples = None, 0, 0
        return means
