"""How alike two networks see pictures, layer by layer: linear CKA, gathered while both are scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from distill.errors import RecipeError
from distill.models.hooks import FeatureHooks
from distill.structures import Batch

LAYERS = ("layer1", "layer2", "layer3", "layer4", "pooled")
_NUM_PICTURES = 2048  # more of them change the third digit
_MOST_PLACES = 8  # a map is averaged to 8 x 8 places at most: those of a 224 px picture would not fit into memory


class LayerSimilarity:
    """A watch for `score`: the centred kernel alignment of teacher and student for each layer that both have.

    CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) of the features' Gram matrices K, L, each HSIC the mean of an unbiased estimate over batches of at
    least 4 pictures. 1: equal but for a rotation and a factor; about 0: nothing in common. Features may have different widths.

    Source: Kornblith et al., 2019, arXiv 1905.00414; in batches: Nguyen, Raghu, Kornblith, 2021, arXiv 2010.15327; HSIC_1: Song et al., 2012.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, aliases: Sequence[Mapping[str, str]] = ({}, {}), *, num_processes: int = 1):
        """aliases: canonical name -> module path, of the student and of the teacher. Its hooks are taken off when enough pictures were seen."""
        self.layers = [name for name in LAYERS if all(_has(model, name, names) for model, names in zip((student, teacher), aliases, strict=True))]
        self._hooks = [FeatureHooks(model, self.layers, names) for model, names in zip((student, teacher), aliases, strict=True)]
        self._sums = torch.zeros(len(self.layers), 3, dtype=torch.float64)  # of HSIC(K, L), HSIC(K, K), HSIC(L, L)
        self._left = -(-_NUM_PICTURES // num_processes)

    @torch.no_grad()
    def __call__(self, positions: Tensor, batch: Batch, logits: Mapping[str, Tensor]) -> None:
        if self._left <= 0:
            return
        ours, theirs = (hooks.pop() for hooks in self._hooks)
        if len(positions) >= 4:
            for row, name in enumerate(self.layers):
                grams = _gram(ours[name]), _gram(theirs[name])
                self._sums[row] += torch.stack([unbiased_hsic(*grams), *(unbiased_hsic(gram, gram) for gram in grams)]).cpu().double()
        self._left -= len(positions)
        if self._left <= 0:
            self.remove()

    def remove(self) -> None:
        """Takes the hooks off the networks."""
        for hooks in self._hooks:
            hooks.remove()

    def result(self, accelerator: Accelerator) -> dict[str, float]:
        """Layer -> CKA over all processes, which all call this; a layer whose features don't vary is left out."""
        sums = accelerator.reduce(self._sums.to(accelerator.device, torch.float32), "sum").cpu().double()
        return {name: float(both / (own * other).sqrt()) for name, (both, own, other) in zip(self.layers, sums, strict=True) if own > 0 and other > 0}


def unbiased_hsic(first: Tensor, second: Tensor) -> Tensor:
    """Gram matrices [n, n] -> the unbiased estimate [] of their Hilbert-Schmidt independence criterion; n is 4 at least."""
    n = len(first)
    first, second = first.clone().fill_diagonal_(0), second.clone().fill_diagonal_(0)
    common = first.sum() * second.sum() / ((n - 1) * (n - 2)) - 2 * (first.sum(dim=0) @ second.sum(dim=0)) / (n - 2)
    return ((first * second).sum() + common) / (n * (n - 3))


def _gram(feature: Tensor) -> Tensor:
    """[n, C, H, W] or [n, D] -> [n, n] float32. Features are moved to mean 0 and scaled to a mean square of 1: no CKA changes by it, and what float32
    rounds off stays small."""
    feature = feature.float()
    if feature.ndim == 4:
        height, width = (min(side, _MOST_PLACES) for side in feature.shape[2:])
        feature = adaptive_avg_pool2d(feature, (height, width))
    rows = feature.flatten(1)
    rows = rows - rows.mean(dim=0)
    return rows @ rows.T / rows.square().sum(dim=1).mean().clamp_min(1e-30)


def _has(model: nn.Module, name: str, aliases: Mapping[str, str]) -> bool:
    try:
        FeatureHooks(model, [name], aliases).remove()
    except RecipeError:
        return False
    return True
