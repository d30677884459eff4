"""The blocks' shapes, and the options they refuse."""

import pytest
import torch

from distill.models.blocks import BasicBlock, Bottleneck, conv1x1, conv3x3


@pytest.mark.parametrize("options", [{"groups": 2}, {"base_width": 128}])
def test_basic_block_refuses_groups_and_width(options):
    with pytest.raises(ValueError, match="BasicBlock knows only groups=1"):
        BasicBlock(64, 64, **options)


def test_basic_block_refuses_dilation():
    with pytest.raises(NotImplementedError, match="no dilation, not 2"):
        BasicBlock(64, 64, dilation=2)


def test_bottleneck_strides_in_its_3x3_convolution():
    block = Bottleneck(16, 8, stride=2, downsample=conv1x1(16, 32, stride=2))
    assert [conv.stride[0] for conv in (block.conv1, block.conv2, block.conv3)] == [1, 2, 1]
    assert block(torch.zeros(1, 16, 8, 8)).shape == (1, 32, 4, 4)


def test_bottleneck_width_follows_base_width_and_groups():
    block = Bottleneck(256, 64, groups=32, base_width=4)  # int(64 * 4 / 64) * 32 = 128, as in ResNeXt-50 32x4d
    assert block.conv2.weight.shape == (128, 4, 3, 3)


def test_dilated_3x3_convolution_keeps_the_size():
    assert conv3x3(2, 3, dilation=4)(torch.zeros(1, 2, 9, 9)).shape == (1, 3, 9, 9)
