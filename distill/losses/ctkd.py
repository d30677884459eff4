"""Curriculum temperature: kd with a temperature that learns to make the student's task harder, more and more."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distill.errors import RecipeError
from distill.losses import _require
from distill.losses._standardise import standardised
from distill.losses.base import DistillLoss
from distill.losses.kd import kd
from distill.structures import Batch, ModelInfo, Outputs

_START = 1.0  # the authors' code: with their range, training starts at a temperature of 1 + 20 sigmoid(1) = 15.6


def reverse_gradient(tensor: Tensor, strength: float | Tensor) -> Tensor:
    """[...] -> [...]: the tensor itself, whose gradient is multiplied by -strength: what minimises the loss elsewhere maximises it here."""
    return tensor.detach() - strength * (tensor - tensor.detach())


class CTKD(DistillLoss):
    """One temperature for all samples is trained against the student, to make kd large, with a strength that should grow from 0 by a schedule.

    Kind: logit
    Inputs: logits of both
    Equation: T^2 KL(softmax(t / T) || softmax(s / T)), T = min + (max - min) sigmoid(a), a trained with the gradient -strength dL/da,
        T^2 included; mean over the batch.
    Paper: Li, Li, Yang, Zhao, Song, Luo, Li, Yang, 2023, AAAI, arXiv 2211.16231
    Weights: CIFAR-100 ce 0.1, ctkd 0.9, strength 0 to 1 by a cosine over 10 of 240 epochs; ImageNet ce 1, ctkd 1, strength over 5 of 120 epochs;
        temperatures from 1 to 21 in both (the authors' scripts)
    Labels: not used
    Cost: one number, trained

    The paper's global version; the one with a temperature for each sample is not here. Several processes train one T, a parameter of the loss: the
    authors' code keeps its T out of DistributedDataParallel, so that each process has another.
    With `standardise`, both logits are first brought to mean 0 and standard deviation 1, as in ls_kd.
    """

    zero_at_identity = True

    def __init__(self, min_temperature: float = 1.0, max_temperature: float = 21.0, strength: float = 1.0, standardise: bool = False):
        """Raises RecipeError unless 0 < min_temperature < max_temperature and the strength is 0 or more."""
        super().__init__()
        _require.positive(min_temperature=min_temperature)
        _require.not_negative(strength=strength)
        if not max_temperature > min_temperature:
            raise RecipeError(f"max_temperature must be above min_temperature, got {max_temperature} and {min_temperature}")
        self.min_temperature, self.max_temperature = min_temperature, max_temperature
        self.strength, self.standardise = strength, standardise

    def setup(self, student: ModelInfo, teacher: ModelInfo) -> None:
        _require.equal_classes(student, teacher)
        self.raw_temperature = nn.Parameter(torch.tensor(_START))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        ours, theirs = standardised(student.logits, teacher.logits) if self.standardise else (student.logits, teacher.logits)
        share = reverse_gradient(self.raw_temperature, self.strength).sigmoid()
        return kd(ours, theirs, self.min_temperature + (self.max_temperature - self.min_temperature) * share)
