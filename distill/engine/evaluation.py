"""Scoring: teacher and student by the same code, every sample exactly once on any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from distill.data.loader import EvaluationLoader
from distill.structures import Outputs


@dataclass(frozen=True)
class Score:
    """What one network answered for a whole part; rows as in the part."""

    predictions: np.ndarray  # [N] int64, the most likely class
    negative_log_likelihoods: np.ndarray  # [N] float32, of the true class
    labels: np.ndarray  # [N] int64

    @property
    def top1(self) -> float:
        return float((self.predictions == self.labels).mean())

    @property
    def nll(self) -> float:
        return float(self.negative_log_likelihoods.mean())

    def agreement(self, other: Score) -> float:
        """The share of samples for which both name the same class."""
        return float((self.predictions == other.predictions).mean())


@torch.no_grad()
def score(
    networks: Mapping[str, Callable[[Tensor], Outputs]],
    loader: EvaluationLoader,
    accelerator: Accelerator,
    check: Callable[[], None] = lambda: None,
) -> dict[str, Score]:
    """Scores every network in one pass over the loader, on all processes together; the networks are in eval mode while it lasts.

    check: called once a batch, equally often in all processes; what it raises ends the scoring. Each process fills in the rows that it saw and leaves
    the others 0; the sum over processes is then exact for any number of samples.
    """
    num_samples, modules = len(loader.part), [network for network in networks.values() if isinstance(network, torch.nn.Module)]
    modes = [module.training for module in modules]
    for module in modules:
        module.eval()
    labels = torch.zeros(num_samples, dtype=torch.int64, device=accelerator.device)
    predictions = {name: torch.zeros_like(labels) for name in networks}
    likelihoods = {name: torch.zeros(num_samples, device=accelerator.device) for name in networks}
    batches = iter(loader)
    for _ in range(loader.num_rounds):
        check()
        if (found := next(batches, None)) is None:  # another process has one batch more
            continue
        positions, batch = found
        labels[positions] = batch.labels
        for name, network in networks.items():
            logits = network(batch.images).logits.float()
            predictions[name][positions] = logits.argmax(dim=1)
            likelihoods[name][positions] = F.cross_entropy(logits, batch.labels, reduction="none")
    for module, mode in zip(modules, modes, strict=True):
        module.train(mode)

    def everyones(tensor: Tensor) -> np.ndarray:
        return accelerator.reduce(tensor, "sum").cpu().numpy()

    all_labels = everyones(labels)
    return {name: Score(everyones(predictions[name]), everyones(likelihoods[name]), all_labels) for name in networks}
