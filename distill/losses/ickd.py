"""Inter-channel correlation: which channels of a map fire together, and how much, comes close to the teacher's."""

from __future__ import annotations

from torch import Tensor, nn

from distill.losses import _require
from distill.losses._added import added
from distill.losses.base import DistillLoss, upcast
from distill.models.projector import Projector
from distill.structures import Batch, FeatureShape, ModelInfo, Outputs

_EPSILON = 1e-24  # square of the least length of a row, far below any row of a living channel


def _row_products(first: Tensor, second: Tensor) -> Tensor:
    """[N, C, P] and [N, C, Q] -> [N, C]: row by row the inner products of (first first') and (second second'), both [N, C, C].

    Where there are fewer places than channels those two are never made: the same number comes from first' second, [N, P, Q].
    """
    if first.shape[2] * second.shape[2] < first.shape[1] ** 2:
        return (first @ (first.mT @ second) * second).sum(dim=2)
    return ((first @ first.mT) * (second @ second.mT)).sum(dim=2)


def ickd(student: Tensor, teacher: Tensor) -> Tensor:
    """[N, C, h, w] and [N, C, H, W] -> []: squared difference of the correlations, rows of length 1, over C; mean over the batch."""
    ours, theirs = student.flatten(2), teacher.flatten(2)  # [N, C, P], [N, C, Q]
    ours_squared, theirs_squared = _row_products(ours, ours), _row_products(theirs, theirs)
    ours_clamped, theirs_clamped = ours_squared.clamp(min=_EPSILON), theirs_squared.clamp(min=_EPSILON)
    cosine = _row_products(ours, theirs) / (ours_clamped.sqrt() * theirs_clamped.sqrt())
    return (ours_squared / ours_clamped + theirs_squared / theirs_clamped - 2 * cosine).mean()  # |x|^2 + |y|^2 - 2 x y, for each row


class ICKD(DistillLoss):
    """Which channels fire together: the rows of the student's channel-by-channel correlation, projected, come close to the teacher's.

    Kind: feature
    Inputs: maps of both, of any sizes and widths
    Equation: sum over layers of 1 / (N C) sum over samples, channels of |g_s - g_t|^2; g a row, scaled to length 1, of G = X X', X the map as
        [C, H W]; the student's map is r(F_s), r a 1x1 convolution with batch norm to the teacher's width C.
    Paper: Liu, Huang, Lin, Xie, Wang, Chang, Liang, 2021, ICCV, "Exploring Inter-Channel Correlation for Diversity-preserved Knowledge Distillation"
    Weights: CIFAR-100 2.5 with kd 1 or without kd (the authors' code); ImageNet 2 with kd of temperature 1 (500 in the authors' code, see below)
    Labels: not used
    Cost: a 1x1 convolution, trained, and some products of [C, H W] matrices for each sample

    This is the scale of the authors' CIFAR code. Their ImageNet code divides by N once more, which ties the weight to the batch size: its 500 for
    256 pictures of one process is 2 here. The rows' lengths and products come from [H W, H W] matrices where those are the smaller ones, so that the
    [C, C] matrices of 2048 channels (16 MiB a sample) are never made. A map of one place has little to say: its rows differ in sign only.
    """

    needs_all_logits = False

    def __init__(self, layers: list[str] = ["layer4"]):  # noqa: B006  never changed
        super().__init__(layers=layers)

    def setup(self, student: ModelInfo, teacher: ModelInfo) -> None:
        _require.maps(student.shapes, self.layers, "student")
        _require.maps(teacher.shapes, self.layers, "teacher")
        pairs = [(student.shapes[layer], teacher.shapes[layer].channels) for layer in self.layers]
        self.projectors = nn.ModuleList(Projector(ours, FeatureShape(channels, *ours[1:])) for ours, channels in pairs)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        pairs = zip(self.layers, self.projectors, strict=True)
        return added(ickd(upcast(projector(student.features[layer])), upcast(teacher.features[layer])) for layer, projector in pairs)
