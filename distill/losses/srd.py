"""Simple recipe distillation: the student's standardised embedding comes close to the teacher's under a soft maximum."""

from __future__ import annotations

from torch import Tensor, nn

from distill.errors import RecipeError
from distill.losses.base import DistillLoss, upcast
from distill.structures import Batch, ModelInfo, Outputs

_LEAST_VARIANCE = 1e-4  # the authors' code
_LEAST_SUM = 1e-6  # against log 0; the sum over channels is in the thousands at first


def standardise(features: Tensor) -> Tensor:
    """[N, D] -> [N, D]: each column with mean 0 and variance 1 over the batch, as batch norm does in training. One row becomes 0."""
    centred = features - features.mean(dim=0)
    return centred / (centred.square().mean(dim=0) + _LEAST_VARIANCE).sqrt()


def srd(student: Tensor, teacher: Tensor, exponent: float | Tensor) -> Tensor:
    """[N, D] and [N, D] -> []: log of the mean over the batch of the summed powers of what differs between the standardised rows."""
    powers = (standardise(student) - standardise(teacher)).abs().pow(exponent)
    return (powers.sum(dim=1).mean() + _LEAST_SUM).log()


class SRD(DistillLoss):
    """The student's embedding, projected and standardised over the batch, comes close to the teacher's, the largest differences first.

    Kind: feature
    Inputs: "pooled" of both
    Equation: log(1 / N sum over samples and channels of |BN(W e_s) - BN(e_t)|^exponent + 1e-6); W trained, BN batch norm without scale and shift.
    Paper: Miles, Mikolajczyk, 2024, arXiv 2303.11098 (the log-sum distance)
    Weights: CIFAR-100 not known; ImageNet 2, beside ce 1 and kd 1 with temperature 1 (the authors' code, ResNet-34 to 18)
    Labels: not used
    Cost: a linear layer to the teacher's width, trained

    The value may be negative. The authors sum over the batch where this takes its mean, so that the value does not depend on the batch's size: a
    difference of log N, with the same gradient. Their sum is unguarded: equal embeddings are log 0 for them, and log 1e-6 here. A batch of one has
    nothing to standardise by: the value is log 1e-6, without gradient. In several processes the statistics are those of the global batch.
    The KL term that the authors add in the same loss is the loss kd.
    """

    batch_coupled = True
    needs_all_logits = False

    def __init__(self, exponent: float = 4.0):
        """Raises RecipeError unless the exponent is 1 or more."""
        super().__init__(layers=["pooled"])
        if not exponent >= 1:
            raise RecipeError(f"exponent must be 1 or more, got {exponent}: below it, equal features have no gradient")
        self.exponent = exponent

    def setup(self, student: ModelInfo, teacher: ModelInfo) -> None:
        self.linear = nn.Linear(student.shapes["pooled"].channels, teacher.shapes["pooled"].channels, bias=False)  # BN would take a bias away

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        return srd(self.linear(upcast(student.features["pooled"])), upcast(teacher.features["pooled"]), self.exponent)
