"""ResNet, ResNeXt and Wide ResNet: torchvision's names, options and initial weights, so weights load with strict=True both ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from distill.models.blocks import BasicBlock, Bottleneck, NormLayer, conv1x1, conv3x3

STEMS = ("imagenet", "small")


class ResNet(nn.Module):
    """images [N, in_channels, H, W] -> logits [N, num_classes].

    stem "imagenet" shrinks the picture by 4 (7x7 convolution, then max-pool); "small" (3x3, no pool) keeps its size, for pictures below about 64 px.
    replace_stride_with_dilation: for layer2, layer3 and layer4, whether dilation takes the place of the stride.
    Raises ValueError for an unknown stem or not exactly three of those.
    Source: He et al. 2015, arXiv 1512.03385; zero_init_residual: Goyal et al. 2017, arXiv 1706.02677.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        layers: Sequence[int],
        num_classes: int = 1000,
        zero_init_residual: bool = False,
        groups: int = 1,
        width_per_group: int = 64,
        replace_stride_with_dilation: Sequence[bool] | None = None,
        norm_layer: NormLayer | None = None,
        in_channels: int = 3,
        stem: str = "imagenet",
    ):
        super().__init__()
        dilate = (False, False, False) if replace_stride_with_dilation is None else replace_stride_with_dilation
        if len(dilate) != 3:
            raise ValueError(f"replace_stride_with_dilation has one entry each for layer2, layer3 and layer4, not {len(dilate)}: {dilate}")
        if stem not in STEMS:
            raise ValueError(f"stem is one of {', '.join(STEMS)}, not {stem!r}")
        self._norm_layer = norm_layer or nn.BatchNorm2d
        self.inplanes = 64
        self.dilation = 1
        self.groups = groups
        self.base_width = width_per_group
        # The order in which modules are made and initialised is torchvision's: one seed gives both the same weights.
        if stem == "imagenet":
            self.conv1 = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        else:
            self.conv1 = conv3x3(in_channels, 64)
        self.bn1 = self._norm_layer(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1) if stem == "imagenet" else nn.Identity()
        self.layer1 = self._make_layer(block, 64, layers[0])
        self.layer2 = self._make_layer(block, 128, layers[1], stride=2, dilate=dilate[0])
        self.layer3 = self._make_layer(block, 256, layers[2], stride=2, dilate=dilate[1])
        self.layer4 = self._make_layer(block, 512, layers[3], stride=2, dilate=dilate[2])
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(512 * block.expansion, num_classes)
        self._initialise(zero_init_residual)

    def _make_layer(
        self, block: type[BasicBlock] | type[Bottleneck], planes: int, blocks: int, stride: int = 1, dilate: bool = False
    ) -> nn.Sequential:
        """One stage. Only its first block changes the width and the size; that block keeps the dilation of the stage before."""
        first_dilation = self.dilation
        if dilate:
            self.dilation *= stride
            stride = 1
        out_planes = planes * block.expansion
        downsample = None
        if stride != 1 or self.inplanes != out_planes:
            downsample = nn.Sequential(conv1x1(self.inplanes, out_planes, stride), self._norm_layer(out_planes))
        common = (self.groups, self.base_width)
        stage = [block(self.inplanes, planes, stride, downsample, *common, first_dilation, self._norm_layer)]
        self.inplanes = out_planes
        stage += [block(out_planes, planes, 1, None, *common, self.dilation, self._norm_layer) for _ in range(blocks - 1)]
        return nn.Sequential(*stage)

    def _initialise(self, zero_init_residual: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        if not zero_init_residual:
            return
        for module in self.modules():  # a zero last norm makes each block an identity at the start
            if isinstance(module, BasicBlock | Bottleneck):
                last: Any = module.bn3 if isinstance(module, Bottleneck) else module.bn2
                nn.init.zeros_(last.weight)

    def forward(self, images: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))  # [N, 64, H / 4, W / 4]; H, W with the small stem
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # [N, D, h, w]
        x = self.avgpool(x).flatten(1)  # -> [N, D]
        return self.fc(x)


def resnet18(**arguments: Any) -> ResNet:
    """ResNet-18, 11.7 M parameters."""
    return ResNet(BasicBlock, (2, 2, 2, 2), **arguments)


def resnet34(**arguments: Any) -> ResNet:
    """ResNet-34, 21.8 M parameters."""
    return ResNet(BasicBlock, (3, 4, 6, 3), **arguments)


def resnet50(**arguments: Any) -> ResNet:
    """ResNet-50, 25.6 M parameters."""
    return ResNet(Bottleneck, (3, 4, 6, 3), **arguments)


def resnet101(**arguments: Any) -> ResNet:
    """ResNet-101, 44.5 M parameters."""
    return ResNet(Bottleneck, (3, 4, 23, 3), **arguments)


def resnet152(**arguments: Any) -> ResNet:
    """ResNet-152, 60.2 M parameters."""
    return ResNet(Bottleneck, (3, 8, 36, 3), **arguments)


def resnext50_32x4d(**arguments: Any) -> ResNet:
    """ResNeXt-50, 32 groups of width 4, 25.0 M parameters."""
    return ResNet(Bottleneck, (3, 4, 6, 3), groups=32, width_per_group=4, **arguments)


def resnext101_32x8d(**arguments: Any) -> ResNet:
    """ResNeXt-101, 32 groups of width 8, 88.8 M parameters."""
    return ResNet(Bottleneck, (3, 4, 23, 3), groups=32, width_per_group=8, **arguments)


def wide_resnet50_2(**arguments: Any) -> ResNet:
    """ResNet-50 with 3x3 convolutions twice as wide, 68.9 M parameters."""
    return ResNet(Bottleneck, (3, 4, 6, 3), width_per_group=128, **arguments)


def wide_resnet101_2(**arguments: Any) -> ResNet:
    """ResNet-101 with 3x3 convolutions twice as wide, 126.9 M parameters."""
    return ResNet(Bottleneck, (3, 4, 23, 3), width_per_group=128, **arguments)


_BUILDERS = (resnet18, resnet34, resnet50, resnet101, resnet152, resnext50_32x4d, resnext101_32x8d, wide_resnet50_2, wide_resnet101_2)
RESNETS: dict[str, Callable[..., ResNet]] = {builder.__name__: builder for builder in _BUILDERS}
