"""Flow of the solution procedure: how the channels of two stages go together, in the student as in the teacher."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from distill.errors import RecipeError
from distill.losses import _require
from distill.losses._added import added
from distill.losses.base import DistillLoss, upcast
from distill.models.projector import Projector
from distill.structures import Batch, ModelInfo, Outputs

Pair = tuple[Tensor, Tensor]


def matched(first: Tensor, second: Tensor) -> Pair:
    """[N, C1, h, w] and [N, C2, H, W] -> [N, C1, P] and [N, C2, P]: the larger map max-pooled to the smaller one's size, places in a row."""
    size = (min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3]))
    first, second = (each if each.shape[2:] == size else F.adaptive_max_pool2d(each, size) for each in (first, second))
    return first.flatten(2), second.flatten(2)


def _by_places(channels: tuple[int, int], places: int) -> bool:
    return places**2 < channels[0] * channels[1]


def squared_distance(ours: Pair, theirs: Pair) -> Tensor:
    """Two pairs of [N, C1, P] and [N, C2, P] -> [N]: |F1_s F2_s^T - F1_t F2_t^T|^2, through [N, P, P] where that is smaller than [N, C1, C2].

    With D = F1_s - F1_t and E = F2_s - F2_t the difference is D F2_s^T + F1_t E^T, and <A B^T, A' B'^T> = <A^T A', B^T B'>. Written in D and E,
    nothing large cancels where the two networks are close.
    """
    if not _by_places((ours[0].shape[1], ours[1].shape[1]), ours[0].shape[2]):
        return (ours[0] @ ours[1].mT - theirs[0] @ theirs[1].mT).square().sum(dim=(1, 2))
    first, second = ours[0] - theirs[0], ours[1] - theirs[1]
    products = (first.mT @ first) * (ours[1].mT @ ours[1]) + 2 * (first.mT @ theirs[0]) * (ours[1].mT @ second)
    return (products + (theirs[0].mT @ theirs[0]) * (second.mT @ second)).sum(dim=(1, 2))


class FSP(DistillLoss):
    """From one stage to a later one, the student's channels go together as the teacher's do: the matrix of their products comes close.

    Kind: feature
    Inputs: maps of both
    Equation: sum over pairs of mean((G_s - G_t)^2), G_ij = 1 / P sum over P places of F1_i F2_j, the mean over samples, i and j; the student's maps
        go through r, a 1x1 convolution with batch norm; the larger map of a pair is max-pooled to the smaller one's size.
    Paper: Yim, Joo, Bae, Kim, 2017, CVPR, equations 1 and 2
    Weights: CIFAR-100 50 (CRD's repository, average pooling); ImageNet not known
    Labels: not used
    Cost: one 1x1 convolution to the teacher's width for each layer, trained; matrices of the smaller of C1 x C2 and P x P for each sample and pair

    The paper's matrices need equal widths; the projectors, one a layer, make them so. The mean over i and j stands in place of equation 2's sum: the
    weight is that of the mean. The paper trains with this alone first and without it afterwards: here it is trained together with the other
    losses, and a weight with the schedule stop_at is its first stage. torchdistill leaves out the square of equation 2's norm.
    """

    needs_all_logits = False

    def __init__(self, pairs: list[list[str]] = [["layer1", "layer2"], ["layer2", "layer3"], ["layer3", "layer4"]]):  # noqa: B006  never changed
        """Raises RecipeError unless there is a pair and each names two different layers."""
        if not pairs or any(len(set(pair)) != 2 or len(pair) != 2 for pair in pairs):
            raise RecipeError(f"pairs must be a list of pairs of two different layers, such as [[layer1, layer2], [layer3, layer4]], got {pairs}")
        super().__init__(layers=list(dict.fromkeys(layer for pair in pairs for layer in pair)))
        self._pairs = [tuple(pair) for pair in pairs]

    def setup(self, student: ModelInfo, teacher: ModelInfo) -> None:
        _require.maps(student.shapes, self.layers, "student")
        _require.maps(teacher.shapes, self.layers, "teacher")
        self.projectors = nn.ModuleList(Projector(student.shapes[layer], teacher.shapes[layer]) for layer in self.layers)
        shapes = [(teacher.shapes[first], teacher.shapes[second]) for first, second in self._pairs]
        sizes = [((a.channels, b.channels), math.prod(map(min, a.size, b.size))) for a, b in shapes]
        self._numbers = sum(6 * places**2 if _by_places(channels, places) else 3 * channels[0] * channels[1] for channels, places in sizes)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        ours = {layer: upcast(projector(student.features[layer])) for layer, projector in zip(self.layers, self.projectors, strict=True)}
        theirs = {layer: upcast(teacher.features[layer]) for layer in self.layers}
        return added(self._distance(*(matched(maps[first], maps[second]) for maps in (ours, theirs))) for first, second in self._pairs)

    @staticmethod
    def _distance(ours: Pair, theirs: Pair) -> Tensor:
        channels, places = ours[0].shape[1] * ours[1].shape[1], ours[0].shape[2]
        return squared_distance(ours, theirs).mean() / (channels * places**2)

    def extra_bytes(self, batch_size: int) -> int:
        return 4 * self._numbers * batch_size
