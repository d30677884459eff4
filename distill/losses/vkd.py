"""VkD: the student's embedding, turned but not stretched, comes close to the teacher's standardised one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.losses.base import DistillLoss, upcast
from distill.structures import Batch, ModelInfo, Outputs


def orthonormal(free: Tensor) -> Tensor:
    """[D, d] with d <= D, any numbers -> [D, d] with orthonormal columns, differentiable.

    The first d columns of the Cayley transform 2 (I + A)^-1 - I of the skew-symmetric A = [[X, -Y^T], [Y, 0]]; X comes from the strictly lower
    triangle of the first d rows, Y is the other rows. Solving by blocks leaves one d x d inverse, of I + X + Y^T Y, which always exists.
    """
    width = free.shape[1]
    lower, below = free[:width].tril(-1), free[width:]
    identity = torch.eye(width, dtype=free.dtype, device=free.device)
    inverse = torch.linalg.inv_ex(identity + lower - lower.mT + below.mT @ below).inverse  # inv would wait for the device to check it
    return torch.cat([2 * inverse - identity, -2 * below @ inverse])


class VkD(DistillLoss):
    """The student's embedding meets the teacher's through a projection that keeps lengths and angles, so what it learns stays in the student.

    Kind: feature
    Inputs: "pooled" of both
    Equation: mean over samples and channels of smooth_l1(W e_s - LN(e_t)); W^T W = I (W W^T = I for a student wider than its teacher), LN layer norm
        without scale and shift, smooth_l1(x) = x^2 / 2 for |x| < 1, else |x| - 1/2.
    Paper: Miles, Elezi, Deng, 2024, arXiv 2403.06213
    Weights: CIFAR-100 not known; ImageNet 1, beside ce 1 and kd 1 with temperature 1 (the authors' code, RegNetY-160 to DeiT)
    Labels: not used
    Cost: a projection to the teacher's width, trained; one inverse of the narrower width squared a step, in float32

    The authors take torch.nn.utils.parametrizations.orthogonal. For a matrix that is not square it uses Householder reflections, with a diagonal of
    -1 among the trained numbers that is cut to whole ones: any weight decay makes it 0, and the projection with it. This parametrisation has no such
    numbers: every value of its parameter gives an orthonormal W, weight decay only pulls it towards a plain embedding of the student's axes.
    """

    needs_all_logits = False

    def __init__(self) -> None:
        super().__init__(layers=["pooled"])

    def setup(self, student: ModelInfo, teacher: ModelInfo) -> None:
        ours, theirs = student.shapes["pooled"].channels, teacher.shapes["pooled"].channels
        self.is_narrowing = ours > theirs
        self.free = nn.Parameter(torch.randn(max(ours, theirs), min(ours, theirs)) / max(ours, theirs) ** 0.5)

    def projection(self) -> Tensor:
        """[D_teacher, D_student]: the projection now."""
        return orthonormal(self.free).mT if self.is_narrowing else orthonormal(self.free)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        target = upcast(teacher.features["pooled"])
        return F.smooth_l1_loss(F.linear(upcast(student.features["pooled"]), self.projection()), F.layer_norm(target, target.shape[1:]))
