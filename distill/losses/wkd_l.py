"""Wasserstein distillation of logits: what the student puts on a wrong class costs little if the class resembles the teacher's choice."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.errors import RecipeError
from distill.losses import _require
from distill.losses.base import DistillLoss
from distill.structures import Batch, ModelInfo, Outputs

_NOTHING = -1e9  # the logarithm of no mass, in place of minus infinity, whose differences are not numbers
_LEAST_REGULARISATION = 0.02  # costs are below 1, and exp(-1 / 0.02) is 2e-22: below, the kernel leaves float32


def class_distances(head_weight: Tensor, sharpness: float) -> Tensor:
    """[K, D] -> [K, K] in 0 .. 1: 1 - exp(-sharpness (1 - cosine)) of the classifier's rows."""
    rows = F.normalize(head_weight, dim=1)
    return 1 - (-sharpness * (1 - rows @ rows.T).clamp_min(0)).exp()


def _log_product(log_masses: Tensor, kernel: Tensor) -> Tensor:
    """[N, K] and [K, K] -> [N, K]: log(exp(log_masses) @ kernel); finite, because the largest mass meets a kernel above 0."""
    largest = log_masses.amax(dim=1, keepdim=True).detach()
    return ((log_masses - largest).exp() @ kernel).log() + largest


def transport_cost(log_p: Tensor, log_q: Tensor, start: Tensor, cost: Tensor, regularisation: float | Tensor, iterations: int) -> Tensor:
    """[N, K] logarithms of two distributions -> [N]: sum_ij P_ij cost_ij, P of Sinkhorn's iterations from the scaling exp(start) [N, K]."""
    kernel = (-cost / regularisation).exp()
    rows = start
    for _ in range(iterations):
        columns = log_q - _log_product(rows, kernel)
        rows = log_p - _log_product(columns, kernel.T)
    scales = [log_masses.amax(dim=1, keepdim=True).detach() for log_masses in (rows, columns)]  # together at most 1 / the kernel's least value
    masses = [(log_masses - scale).exp() for log_masses, scale in zip((rows, columns), scales, strict=True)]
    return (masses[0] @ (kernel * cost) * masses[1] * (scales[0] + scales[1]).exp()).sum(dim=1)


class WassersteinLogits(DistillLoss):
    """The student moves its probability to where the teacher's is; moving it between classes that look alike costs little.

    Kind: logit
    Inputs: logits of both, labels, the teacher's classifier
    Equation: -p_y log q_y + gamma OT(p', q'); p and q at temperature 1; p' = softmax(t / T) and q' = softmax(s / T) over the classes other
        than y; OT = sum_ij P_ij C_ij, P the entropic transport plan (Sinkhorn); C_ij = 1 - exp(-sharpness (1 - cos(w_i, w_j))), w the
        rows of the teacher's classifier; mean over the batch.
    Paper: Lv, Yang, Li, 2024, arXiv 2412.08139 (WKD-L)
    Weights: CIFAR-100 gamma 600, temperature 8, gamma falling from epoch 150 of 240 on; ImageNet gamma 30, temperature 2; both ce 1, weight 1,
        sharpness 1, regularisation 0.05, 10 iterations (the authors' configuration)
    Labels: refuses soft labels
    Cost: 2 products [N, K] x [K, K] an iteration

    The authors' default distances are by CKA of the teacher's features over the training set; theirs from the classifier, an option, are these.
    They give each sample its own cost matrix without the target, 1 GB for 256 samples of 1000 classes; here all samples share one, and the target
    has no mass. Iterations are in logarithms. Two equal answers cost a little too: an entropic plan is blurred.
    """

    needs_labels = True
    takes_soft_labels = False

    cost: Tensor  # [K, K], of moving probability from class to class

    def __init__(self, gamma: float = 30.0, temperature: float = 2.0, sharpness: float = 1.0, regularisation: float = 0.05, iterations: int = 10):
        """Raises RecipeError unless gamma is 0 or more, regularisation 0.02 or more, and the others above 0."""
        super().__init__()
        _require.not_negative(gamma=gamma)
        _require.positive(temperature=temperature, sharpness=sharpness, iterations=iterations)
        if not regularisation >= _LEAST_REGULARISATION:
            raise RecipeError(f"regularisation must be {_LEAST_REGULARISATION} or more, such as 0.05, got {regularisation}")
        self.gamma, self.temperature, self.regularisation = gamma, temperature, regularisation
        self._sharpness, self._iterations = sharpness, iterations

    def setup(self, student: ModelInfo, teacher: ModelInfo) -> None:
        _require.equal_classes(student, teacher)
        self.register_buffer("cost", class_distances(_require.head(teacher, "teacher"), self._sharpness), persistent=False)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        is_target = F.one_hot(batch.labels, student.logits.shape[1]).bool()
        certainty = (teacher.logits.softmax(dim=1) * is_target).sum(dim=1)
        target_term = certainty * F.cross_entropy(student.logits, batch.labels, reduction="none")
        log_q, log_p = (self._others(outputs.logits, is_target) for outputs in (student, teacher))
        start = torch.zeros_like(log_q).masked_fill(is_target, _NOTHING)
        cost = self.cost.to(log_q.dtype)
        return (target_term + self.gamma * transport_cost(log_q, log_p, start, cost, self.regularisation, self._iterations)).mean()

    def _others(self, logits: Tensor, is_target: Tensor) -> Tensor:
        """[N, K] -> [N, K]: logarithms of the softened distribution over the classes other than the target."""
        return F.log_softmax((logits / self.temperature).masked_fill(is_target, -torch.inf), dim=1).masked_fill(is_target, _NOTHING)

    def extra_bytes(self, batch_size: int) -> int:
        return 8 * self._iterations * batch_size * len(self.cost) * 4  # four tensors [N, K] kept for the backward of each product
