"""The residual blocks that every ResNet here is built from, with torchvision's parameter names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

NormLayer = Callable[[int], nn.Module]


def conv3x3(in_planes: int, out_planes: int, stride: int = 1, groups: int = 1, dilation: int = 1) -> nn.Conv2d:
    """A 3x3 convolution without bias that keeps height and width at stride 1."""
    return nn.Conv2d(in_planes, out_planes, kernel_size=3, stride=stride, padding=dilation, groups=groups, bias=False, dilation=dilation)


def conv1x1(in_planes: int, out_planes: int, stride: int = 1) -> nn.Conv2d:
    """A 1x1 convolution without bias."""
    return nn.Conv2d(in_planes, out_planes, kernel_size=1, stride=stride, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: [N, inplanes, H, W] -> [N, planes, H / stride, W / stride].

    Raises ValueError for grouped or widened convolutions and NotImplementedError for dilation: the block has neither.
    Source: He et al. 2015, arXiv 1512.03385.
    """

    expansion = 1

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        groups: int = 1,
        base_width: int = 64,
        dilation: int = 1,
        norm_layer: NormLayer | None = None,
    ):
        super().__init__()
        if groups != 1 or base_width != 64:
            raise ValueError(
                f"BasicBlock knows only groups=1 and width_per_group=64, not groups={groups} and width_per_group={base_width}; "
                "resnet50 and deeper, made of Bottleneck, take both"
            )
        if dilation > 1:
            raise NotImplementedError(f"BasicBlock knows no dilation, not {dilation}; resnet50 and deeper, made of Bottleneck, take it")
        norm_layer = norm_layer or nn.BatchNorm2d
        self.conv1 = conv3x3(inplanes, planes, stride)
        self.bn1 = norm_layer(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(planes, planes)
        self.bn2 = norm_layer(planes)
        self.downsample = downsample
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut: [N, inplanes, H, W] -> [N, 4 * planes, H / stride, W / stride].

    The stride sits in the 3x3 convolution ("v1.5"), not in the first 1x1 as in the paper: more accurate, and what torchvision's weights expect.
    Source: He et al. 2015, arXiv 1512.03385; groups: Xie et al. 2016, arXiv 1611.05431; width: Zagoruyko & Komodakis 2016, arXiv 1605.07146.
    """

    expansion = 4

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        groups: int = 1,
        base_width: int = 64,
        dilation: int = 1,
        norm_layer: NormLayer | None = None,
    ):
        super().__init__()
        norm_layer = norm_layer or nn.BatchNorm2d
        width = int(planes * (base_width / 64.0)) * groups
        self.conv1 = conv1x1(inplanes, width)
        self.bn1 = norm_layer(width)
        self.conv2 = conv3x3(width, width, stride, groups, dilation)
        self.bn2 = norm_layer(width)
        self.conv3 = conv1x1(width, planes * self.expansion)
        self.bn3 = norm_layer(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


def initialise(network: nn.Module, zero_init_residual: bool = False) -> None:
    """Gives a ResNet torchvision's initial weights, in place. zero_init_residual: each block begins as an identity."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    if not zero_init_residual:
        return
    for module in network.modules():  # a zero last norm makes each block an identity at the start
        if isinstance(module, Bottleneck):
            last: Any = module.bn3
        elif isinstance(module, BasicBlock):
            last = module.bn2
        else:
            continue
        nn.init.zeros_(last.weight)
