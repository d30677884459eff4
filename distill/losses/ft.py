"""Factor transfer: the student learns a paraphrase of the teacher's feature map, made by an auto-encoder."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from distill.errors import RecipeError
from distill.losses import _require
from distill.losses._added import added
from distill.losses._precision import in_own_precision
from distill.losses._sizes import pooled_to
from distill.losses.base import DistillLoss, upcast
from distill.structures import Batch, FeatureShape, ModelInfo, Outputs


def factor_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """[N, M, H, W] and [N, M, H, W] -> []: mean over every element of the absolute difference of the factors, each sample's scaled to length 1."""
    ours, theirs = (F.normalize(factor.flatten(1), dim=1) for factor in (student, teacher))
    return (ours - theirs).abs().mean()


def _stack(layer: type[nn.Module], widths: list[int], kernel_size: int) -> nn.Sequential:
    """Convolutions from each width to the next, each with a leaky ReLU of 0.1 behind it; sizes stay."""
    return nn.Sequential(*(part for pair in pairwise(widths) for part in (layer(*pair, kernel_size, padding=kernel_size // 2), nn.LeakyReLU(0.1))))


class _Factors(nn.Module):
    """What one layer trains: the paraphraser's two halves on the teacher's map, and the translator on the student's."""

    def __init__(self, student: FeatureShape, teacher: FeatureShape, rate: float, kernel_size: int):
        super().__init__()
        width, ours, theirs = max(1, round(rate * teacher.channels)), student.channels, teacher.channels
        self.paraphraser = _stack(nn.Conv2d, [theirs, theirs, width, width], kernel_size)
        self.restorer = _stack(nn.ConvTranspose2d, [width, width, theirs, theirs], kernel_size)
        self.translator = _stack(nn.Conv2d, [ours, ours, width, width], kernel_size)

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """[N, C, h, w] and [N, C, H, W] -> [] distance of the factors, without gradient for the paraphraser, and [] error of its restored map."""
        factor = in_own_precision(self.paraphraser, teacher)
        restored = in_own_precision(self.restorer, factor)
        distance = factor_distance(upcast(in_own_precision(self.translator, pooled_to(student, teacher.shape[2:]))), upcast(factor).detach())
        return distance, (upcast(restored) - upcast(teacher)).square().mean()


class FactorTransfer(DistillLoss):
    """An auto-encoder puts the teacher's map into fewer channels, a translator the student's map, and the two factors come close.

    Kind: feature
    Inputs: maps of both
    Equation: sum over layers of mean |f_s / |f_s| - f_t / |f_t|| + reconstruction_weight mean((g(f_t) - F_t)^2), means over every element;
        f_t = p(F_t), f_s = q(F_s); p, q and g three convolutions each, with leaky ReLU. f_t has no gradient in the first term.
    Paper: Kim, Park, Kwak, 2018, arXiv 1802.04977, with p = 1
    Weights: CIFAR-100 200 (CRD's repository, another factor), CIFAR-10 500 (the authors' code); ImageNet 1000 (torchdistill)
    Labels: not used
    Cost: nine convolutions; with a kernel of 3 and layer4 of a ResNet-50, 150 million parameters; a kernel of 1 needs a ninth

    The paper trains the paraphraser first, alone: here both are trained together, and reconstruction_weight undoes a weight of 500, so that the
    paraphraser's own loss counts once, as in its own stage; set it to 1 / weight for another weight. rate is the factor's width in the teacher's.
    CRD's repository compares sums of squares over the factor's channels instead of the factors; torchdistill has 0 / 0 for a dead factor.
    """

    needs_all_logits = False

    def __init__(self, layers: list[str] = ["layer4"], rate: float = 0.5, kernel_size: int = 3, reconstruction_weight: float = 2e-3):  # noqa: B006
        """Raises RecipeError unless rate and reconstruction_weight are above 0 and the kernel's size is odd."""
        super().__init__(layers=layers)
        _require.positive(rate=rate, reconstruction_weight=reconstruction_weight)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise RecipeError(f"kernel_size must be odd and above 0, such as 3, got {kernel_size}")
        self._rate, self._kernel_size, self.reconstruction_weight = rate, kernel_size, reconstruction_weight

    def setup(self, student: ModelInfo, teacher: ModelInfo) -> None:
        _require.maps(student.shapes, self.layers, "student")
        _require.maps(teacher.shapes, self.layers, "teacher")
        shapes = [(student.shapes[layer], teacher.shapes[layer]) for layer in self.layers]
        self.factors = nn.ModuleList(_Factors(*pair, self._rate, self._kernel_size) for pair in shapes)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        terms = []
        for layer, factors in zip(self.layers, self.factors, strict=True):
            distance, error = factors(student.features[layer], teacher.features[layer])
            terms += [distance, self.reconstruction_weight * error]
        return added(terms)
