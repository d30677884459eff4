"""Scale-decoupled distillation: the student imitates what the teacher's classifier says of parts of the picture, coarse and fine."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.errors import RecipeError
from distill.losses import _require
from distill.losses.base import DistillLoss, upcast
from distill.structures import Batch, FeatureShape, Head, ModelInfo, Outputs


def local_logits(feature_map: Tensor, head: Head, grids: list[tuple[int, int]]) -> Tensor:
    """[N, C, H, W] -> [N, R, K]: what the classifier says of each cell of each grid, R cells in all."""
    cells = torch.cat([F.adaptive_avg_pool2d(upcast(feature_map), grid).flatten(2) for grid in grids], dim=2)  # [N, C, R]
    bias = None if head.bias is None else upcast(head.bias)
    return F.linear(cells.transpose(1, 2), upcast(head.weight), bias)


def make_grids(scales: list[int], student: FeatureShape, teacher: FeatureShape) -> list[tuple[int, int]]:
    """The grids as (rows, columns), none finer than either map, and none twice."""
    height, width = map(min, student.size, teacher.size)
    return list(dict.fromkeys((min(scale, height), min(scale, width)) for scale in scales))


class ScaleDecoupled(DistillLoss):
    """The student imitates the teacher's answer for parts of the picture, and most where the teacher sees another class than in the whole.

    Kind: logit
    Inputs: the last map before the pooling and the classifiers of both
    Equation: mean over samples and cells of w T^2 sum_k p_k log(p_k / q_k), p = softmax(t / T), q = softmax(s / T), s and t each network's
        classifier on the cell's mean; w = complementary_weight where the teacher's class of the cell is not that of the whole, else 1.
    Paper: Wei, Luo, Luo, 2024, arXiv 2403.13512: D_con + beta D_com, beta 2
    Weights: CIFAR-100 ce 0.1, sdd 0.9, temperature 4, scales 1, 2, 4 (the authors' configuration, which has the same for ImageNet)
    Labels: not used
    Cost: the classifier on 21 cells instead of one

    A grid finer than the map is taken as fine as the map, and grids that are then equal count once: on a map of 1x1 the loss is kd. The student's
    classifier gets gradient from every cell. The authors' code judges by the label: it also gives weight 1 where the cell's class and the
    whole's are both wrong and differ. What is not a number stops the run here; their code replaces it by 0.
    """

    needs_all_logits = False  # it looks at the teacher's map through its classifier, not at its logits
    zero_at_identity = True

    def __init__(
        self,
        layer: str = "layer4",
        scales: list[int] = [1, 2, 4],  # noqa: B006  never changed
        temperature: float = 4.0,
        complementary_weight: float = 2.0,
    ):
        """Raises RecipeError unless the scales are 1 or more, the temperature is above 0 and the weight 0 or more."""
        super().__init__(layers=[layer])
        if not scales or min(scales) < 1:
            raise RecipeError(f"scales must be one or more whole numbers from 1 on, such as [1, 2, 4], got {scales}")
        _require.positive(temperature=temperature)
        _require.not_negative(complementary_weight=complementary_weight)
        self.scales, self.temperature, self.complementary_weight = list(scales), temperature, complementary_weight

    def setup(self, student: ModelInfo, teacher: ModelInfo) -> None:
        _require.equal_classes(student, teacher)
        (layer,) = self.layers
        for info, whose in ((student, "student"), (teacher, "teacher")):
            _require.map_that_is_pooled(info, layer, whose)
        self.grids = make_grids(self.scales, student.shapes[layer], teacher.shapes[layer])

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        (layer,) = self.layers
        ours, theirs = (local_logits(outputs.features[layer], _require.head_now(outputs), self.grids) for outputs in (student, teacher))
        whole = local_logits(teacher.features[layer], _require.head_now(teacher), [(1, 1)])
        is_complementary = theirs.argmax(dim=2) != whole.argmax(dim=2)  # [N, R]
        log_q, log_p = (F.log_softmax(logits / self.temperature, dim=2) for logits in (ours, theirs))
        divergences = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=2)
        weighted = divergences * (1 + (self.complementary_weight - 1) * is_complementary.to(divergences.dtype))
        return weighted.mean() * self.temperature**2
