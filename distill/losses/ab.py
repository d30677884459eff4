"""Activation boundaries: each of the student's neurons is on exactly where the teacher's is, with a margin."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.losses import _require
from distill.losses._added import added
from distill.losses.base import DistillLoss, upcast
from distill.models.projector import Projector
from distill.structures import Batch, ModelInfo, Outputs

_SCALE = 3e-3  # the authors' code: their losses are sums over tens of thousands of neurons


def boundaries(student: Tensor, teacher: Tensor, margin: float | Tensor) -> Tensor:
    """[N, C, H, W] twice, before the activation -> []: squared hinge on the teacher's sign, sum over a sample's neurons, mean over the batch."""
    return torch.where(teacher > 0, F.relu(margin - student), F.relu(margin + student)).square().flatten(1).sum(dim=1).mean()


class ActivationBoundaries(DistillLoss):
    """A neuron of the student should be on, by a margin, where the teacher's is on, and off where it is off; how strongly it is on does not matter.

    Kind: feature
    Inputs: maps of both before the last activation of a stage, such as "layer4.pre"
    Equation: 3 / 1000 sum over layers l = 1 .. L of 2^(l - L) / N sum over elements of max(0, margin - s)^2 where F_t > 0, else max(0, margin + s)^2;
        s = r(F_s), r a 1x1 convolution with batch norm.
    Paper: Heo, Lee, Yun, Choi, 2019, arXiv 1811.03233; the factors 3 / 1000 and 2^(l - L) are the authors' code's
    Weights: CIFAR-100 1 (CRD's repository, and the authors' code on CIFAR-10); ImageNet 1 (mmrazor), each in a stage of its own
    Labels: not used
    Cost: one 1x1 convolution to the teacher's width for each layer, trained

    A sum over elements, as in the authors' code, so the weight depends on the size of the maps. Layers go from shallow to deep. The authors train
    with this alone first and without it afterwards: here it is trained together with the other losses, and a weight with the schedule stop_at
    is their first stage. mmrazor compares the last convolution's output, which is neither normalised nor added to the shortcut yet.
    """

    needs_all_logits = False

    def __init__(self, layers: list[str] = ["layer1.pre", "layer2.pre", "layer3.pre", "layer4.pre"], margin: float = 1.0):  # noqa: B006  never changed
        """Raises RecipeError unless the margin is above 0, and for a stage after its last activation."""
        super().__init__(layers=layers)
        _require.values_before_activation(layers)
        _require.positive(margin=margin)
        self.margin = margin

    def setup(self, student: ModelInfo, teacher: ModelInfo) -> None:
        self.projectors = nn.ModuleList(Projector(student.shapes[layer], teacher.shapes[layer]) for layer in self.layers)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        terms = []
        for index, (layer, projector) in enumerate(zip(self.layers, self.projectors, strict=True)):
            ours, theirs = upcast(projector(student.features[layer])), upcast(teacher.features[layer])
            terms.append(boundaries(ours, theirs, self.margin) * 2.0 ** (index + 1 - len(self.layers)))
        return added(terms) * _SCALE
