"""Overhaul of feature distillation: maps before the last ReLU come close wherever the difference would outlive that ReLU."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from distill.errors import RecipeError
from distill.losses import _require
from distill.losses._added import added
from distill.losses.base import DistillLoss, upcast
from distill.models.projector import Projector
from distill.structures import Batch, ModelInfo, Norm, Outputs

_TINY = 1e-12  # stands for a weight of 0, whose channel is the constant `bias`


def negative_mean(norm: Norm) -> Tensor:
    """[C]: E[x | x < 0] for x ~ N(bias, weight^2), channel by channel, never above 0.

    With r = bias / |weight| it is bias - |weight| pdf(r) / cdf(-r), and pdf(r) / cdf(-r) = sqrt(2 / pi) / erfcx(r / sqrt 2), which neither
    overflows nor becomes 0 / 0 in the tails. In the limits it is `bias` for a channel that is always negative and 0 for one that never is.
    """
    bias, weight = (tensor.to("cpu", torch.float64) for tensor in (norm.bias, norm.weight))
    deviation = weight.abs().clamp(min=_TINY)
    hazard = math.sqrt(2 / math.pi) / torch.special.erfcx(bias / deviation / math.sqrt(2))
    return (bias - deviation * hazard).clamp(max=0)


def partial_l2(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """[N, C, H, W], [N, C, H, W] and [C, 1, 1] -> []: squares where it matters, sum over each sample's elements, mean over the batch."""
    target = torch.maximum(teacher, margin)
    is_counted = (student > target) | (target > 0)
    return torch.where(is_counted, (student - target).square(), 0).flatten(1).sum(dim=1).mean()


class OFD(DistillLoss):
    """The student's map before the last ReLU, projected, comes close to the teacher's, except where both are negative and the student's lower.

    Kind: feature
    Inputs: maps of both before the last activation of a stage, such as "layer4.pre"; the teacher's batch norm before it
    Equation: sum over layers l = 1 .. L of 2^(l - L) / N sum over elements of d; t = max(F_t, m), m = E[x | x < 0] by channel, x ~ N(bias, weight^2)
        of the teacher's batch norm; s = r(F_s), r a 1x1 convolution with batch norm; d = 0 where s <= t <= 0, else (s - t)^2.
    Paper: Heo, Kim, Yun, Park, Kwak, Choi, 2019, arXiv 1904.01866; the factors 2^(l - L) are the authors' code's
    Weights: CIFAR-100 1e-3; ImageNet 1e-4 (the authors' code)
    Labels: not used
    Cost: one 1x1 convolution to the teacher's width for each layer, trained

    A sum over elements, as in the authors' code, so the weight depends on the size of the maps. Layers go from shallow to deep.
    The authors leave the teacher's batch norms in training mode; here the teacher stays in eval mode. For a channel that is negative in less than
    one case of a thousand their margin is -3 |weight|, some ten times the mean that their equation asks for; here it is that mean.
    In a residual network the batch norm comes before the shortcut is added, so the margin is an approximation, as it is for the authors.
    """

    needs_all_logits = False

    def __init__(self, layers: list[str] = ["layer1.pre", "layer2.pre", "layer3.pre", "layer4.pre"]):  # noqa: B006  never changed
        """Raises RecipeError for a stage after its last activation."""
        super().__init__(layers=layers)
        _require.values_before_activation(layers)

    def setup(self, student: ModelInfo, teacher: ModelInfo) -> None:
        """Raises RecipeError for a layer that no batch norm of the teacher leads to, and for vectors."""
        _require.maps(teacher.shapes, self.layers, "teacher")
        for layer in self.layers:
            if layer not in teacher.norms:
                raise RecipeError(
                    f"the teacher {teacher.name} has no batch norm before {layer!r}, and this loss takes its margin from one: "
                    "take a teacher with norm: batch and layers such as 'layer4.pre', or another loss such as fitnet"
                )
        self.projectors = nn.ModuleList(Projector(student.shapes[layer], teacher.shapes[layer]) for layer in self.layers)
        for index, layer in enumerate(self.layers):
            norm = teacher.norms[layer]
            margin = negative_mean(norm).to(upcast(norm.bias).dtype)
            self.register_buffer(f"margin{index}", margin.reshape(-1, 1, 1), persistent=False)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        terms = []
        for index, (layer, projector) in enumerate(zip(self.layers, self.projectors, strict=True)):
            ours, theirs = upcast(projector(student.features[layer])), upcast(teacher.features[layer])
            terms.append(partial_l2(ours, theirs, getattr(self, f"margin{index}")) * 2.0 ** (index + 1 - len(self.layers)))
        return added(terms)
