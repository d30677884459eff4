"""The ResNets of three stages for pictures of 32 px, on which most distillation papers report CIFAR-100."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from distill.models.blocks import BasicBlock, NormLayer, conv1x1, conv3x3, initialise

SHORTCUTS = ("projection", "padding")


class PaddingShortcut(nn.Module):
    """Every second pixel, with channels of zeros behind its own: [N, C, H, W] -> [N, out_planes, H / stride, W / stride]. No parameters.

    Source: He et al. 2015, arXiv 1512.03385, option A.
    """

    def __init__(self, out_planes: int, stride: int):
        super().__init__()
        self.out_planes, self.stride = out_planes, stride

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, self.out_planes - x.shape[1]))


class CifarResNet(nn.Module):
    """images [N, in_channels, H, W] -> logits [N, num_classes]. The stages are layer1, layer2 and layer3, at H, H / 2 and H / 4; there is no layer4.

    blocks: in each stage, n of the depth 6 n + 2. width: channels of layer1; the others have two and four times as many.
    stem_width: channels of the first convolution.
    shortcut, where a stage changes width or size: "projection" (1x1 convolution and norm), as in the tables of distillation papers, or "padding",
    without parameters, as in He et al.'s own on CIFAR-10.
    Raises ValueError for another shortcut.
    Source: He et al. 2015, arXiv 1512.03385, section 4.2; with four times the width, Tian et al. 2020, arXiv 1910.10699 (resnet8x4, resnet32x4).
    """

    def __init__(
        self,
        blocks: int,
        width: int,
        stem_width: int,
        num_classes: int = 100,
        shortcut: str = "projection",
        zero_init_residual: bool = False,
        norm_layer: NormLayer | None = None,
        in_channels: int = 3,
    ):
        super().__init__()
        if shortcut not in SHORTCUTS:
            raise ValueError(f"shortcut is one of {', '.join(SHORTCUTS)}, not {shortcut!r}")
        self._norm_layer = norm_layer or nn.BatchNorm2d
        self._shortcut = shortcut
        self.conv1 = conv3x3(in_channels, stem_width)
        self.bn1 = self._norm_layer(stem_width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = self._make_layer(stem_width, width, blocks)
        self.layer2 = self._make_layer(width, 2 * width, blocks, stride=2)
        self.layer3 = self._make_layer(2 * width, 4 * width, blocks, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(4 * width, num_classes)
        initialise(self, zero_init_residual)

    def _make_layer(self, in_planes: int, planes: int, blocks: int, stride: int = 1) -> nn.Sequential:
        """One stage. Only its first block changes the width and the size."""
        downsample = None
        if stride != 1 or in_planes != planes:
            downsample = self._make_shortcut(in_planes, planes, stride)
        first = BasicBlock(in_planes, planes, stride, downsample, norm_layer=self._norm_layer)
        return nn.Sequential(first, *(BasicBlock(planes, planes, norm_layer=self._norm_layer) for _ in range(blocks - 1)))

    def _make_shortcut(self, in_planes: int, planes: int, stride: int) -> nn.Module:
        if self._shortcut == "padding":
            return PaddingShortcut(planes, stride)
        return nn.Sequential(conv1x1(in_planes, planes, stride), self._norm_layer(planes))

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(images)))  # [N, stem_width, H, W]
        x = self.layer3(self.layer2(self.layer1(x)))  # -> [N, D, H / 4, W / 4]
        x = self.avgpool(x).flatten(1)  # -> [N, D]
        return self.fc(x)


_BLOCKS = {8: 1, 14: 2, 20: 3, 32: 5, 44: 7, 56: 9, 110: 18}  # by depth
CIFAR_RESNETS: dict[str, Callable[..., CifarResNet]] = {
    **{f"resnet{depth}": functools.partial(CifarResNet, blocks, 16, 16) for depth, blocks in _BLOCKS.items()},
    "resnet8x4": functools.partial(CifarResNet, 1, 64, 32),
    "resnet32x4": functools.partial(CifarResNet, 5, 64, 32),
}
