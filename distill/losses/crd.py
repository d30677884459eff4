"""Contrastive representation distillation: the student's and the teacher's embeddings of a picture find each other among thousands of others."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.errors import RecipeError
from distill.losses import _require
from distill.losses._added import added
from distill.losses._bank import OtherClasses, remember
from distill.losses._unit import unit
from distill.losses.base import DistillLoss, upcast
from distill.structures import Batch, ModelInfo, Outputs

_STREAM = 1910  # of the random numbers: the year and month of the paper
_MANY = 1000  # rows of each bank that are enough for a mean


def noise_contrast(positive: Tensor, negatives: Tensor, log_constant: Tensor) -> Tensor:
    """[N] and [N, n] similarities / temperature -> []: -log h(positive) - sum of log(1 - h(negative)), h(x) = e^x / (e^x + constant)."""
    return -(F.logsigmoid(positive - log_constant) + F.logsigmoid(log_constant - negatives).sum(dim=1)).mean()


class CRD(DistillLoss):
    """The student's embedding of a picture is told apart, as the teacher's partner, from those of thousands of pictures of other classes.

    Kind: relation
    Inputs: vectors of both, of the whole batch; sample ids; the training pictures' classes
    Equation: L(s_i, t_i; bank_t) + L(t_i, s_i; bank_s), L(a, b; bank) = -log h(a b) - sum over n negatives c of log(1 - h(a c)),
        h(x) = e^(x / T) / (e^(x / T) + n m), m the mean of e^(x / T) over random directions; s and t linear in the features, of length 1;
        c the bank's rows for pictures of other classes; mean over the batch. bank <- momentum bank + (1 - momentum) embedding, length 1.
    Paper: Tian, Krishnan, Isola, 2020, arXiv 1910.10699; m: Wu, Xiong, Yu, Lin, 2018, arXiv 1805.01978
    Weights: CIFAR-100 0.8, ce 1 (the authors' repository); ImageNet the same (torchdistill's configuration); 16384 negatives, temperature 0.07,
        momentum 0.5, dim 128
    Labels: refuses soft labels: a mixed picture has no row in the bank. Classes are the training data's, by sample id
    Cost: two banks [M, dim] for M training pictures, and two products of the batch with them: see extra_bytes

    Differences to the authors' code: the positive is the other network's embedding of the same view, as in the paper's equations, not the bank's
    older row for it, which says nothing in the first epoch. Negatives are drawn with replacement by sample and view, at most as many as every
    class has pictures of other classes; all similarities to a bank are one product, of which they are picked. The paper's n / M becomes n m: their
    code divides e^(x / T) by M times its mean in the first batch, where the bank is random; m is that mean, known before. The banks are updated
    after they were used, while training only, in one stage with everything else.
    """

    batch_coupled = True
    needs_sample_ids = True
    needs_labels = True  # those in `data`: which pictures are of other classes
    needs_all_logits = False
    takes_soft_labels = False
    student_bank: Tensor  # [M, dim], a row of length 1 for each training picture
    teacher_bank: Tensor
    log_mean: Tensor  # []

    def __init__(self, layer: str = "pooled", dim: int = 128, num_negatives: int = 16384, temperature: float = 0.07, momentum: float = 0.5):
        """Raises RecipeError unless dim, num_negatives and temperature are above 0 and 0 <= momentum < 1."""
        super().__init__(layers=[layer])
        _require.positive(dim=dim, num_negatives=num_negatives, temperature=temperature)
        if not 0 <= momentum < 1:
            raise RecipeError(f"momentum must be at least 0 and below 1, got {momentum}")
        self._dim, self._temperature = dim, temperature  # under another name: the constant depends on it, so it can't follow a schedule
        self.num_negatives, self.momentum = num_negatives, momentum

    def setup(self, student: ModelInfo, teacher: ModelInfo) -> None:
        """Raises RecipeError without training pictures of at least two classes, and for a layer that gives a map."""
        if self.data is None:
            raise RecipeError("this loss remembers all pictures and was not told of them: DataInfo in `data`, train_labels in make_distiller")
        shapes = [info.shapes[self.layers[0]] for info in (student, teacher)]
        if any(shape.is_map for shape in shapes):
            raise RecipeError(f"layer must be a vector such as 'pooled', and {self.layers[0]!r} is a map")
        self.student_embedding = nn.Linear(shapes[0].channels, self._dim)
        self.teacher_embedding = nn.Linear(shapes[1].channels, self._dim)
        self.pictures = OtherClasses(self.data)
        self.num_negatives = min(self.num_negatives, self.pictures.num_others)
        for name in ("student_bank", "teacher_bank"):
            self.register_buffer(name, unit(torch.randn(self.pictures.num, self._dim)))
        at_random = self.student_bank[:_MANY] @ self.teacher_bank[:_MANY].T / self._temperature
        self.register_buffer("log_mean", at_random.logsumexp(dim=(0, 1)) - math.log(at_random.numel()))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        (layer,) = self.layers
        ours = unit(self.student_embedding(upcast(student.features[layer])))  # [N, dim]
        theirs = unit(self.teacher_embedding(upcast(teacher.features[layer])))
        rows = self.pictures.row_of[batch.sample_ids]
        drawn = self.pictures.draw(rows, batch, self.num_negatives, _STREAM)  # [N, n]
        positive = (ours * theirs).sum(dim=1) / self._temperature
        banks = (self.teacher_bank.clone(), self.student_bank.clone())  # clones: the backward needs what the update below writes over
        negatives = [(anchor @ bank.T).gather(1, drawn) / self._temperature for anchor, bank in zip((ours, theirs), banks, strict=True)]
        log_constant = self.log_mean + math.log(self.num_negatives)
        if self.training:
            remember(self.student_bank, rows, ours.detach(), self.momentum)
            remember(self.teacher_bank, rows, theirs.detach(), self.momentum)
        return added(noise_contrast(positive, similarities, log_constant) for similarities in negatives)

    def extra_bytes(self, batch_size: int) -> int:
        banks, similarities = 4 * self.pictures.num * self._dim * 4, 2 * batch_size * self.pictures.num * 4
        return banks + similarities + 48 * batch_size * self.num_negatives  # places in 64 bits; two lists of negatives and what is kept of them
