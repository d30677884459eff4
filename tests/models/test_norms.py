"""Normalisation layers by name."""

import pytest
import torch
from torch import nn

from distill.errors import DistillError, RecipeError
from distill.models.norms import make_norm_layer
from distill.models.resnet import resnet18


@pytest.mark.parametrize("channels, groups", [(64, 32), (48, 24), (7, 7), (37, 1), (66, 22)])
def test_group_norm_takes_the_largest_divisor_up_to_32(channels, groups):
    assert make_norm_layer("group")(channels).num_groups == groups


def test_frozen_norm_loads_a_checkpoint_of_batch_norm_strictly():
    source = resnet18(num_classes=3)
    nn.init.uniform_(source.layer1[0].bn1.running_var, 0.5, 1.5)
    frozen = resnet18(num_classes=3, norm_layer=make_norm_layer("frozen"))
    frozen.load_state_dict(source.state_dict(), strict=True)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(frozen.train()(images), source.eval()(images), rtol=1e-4, atol=1e-5)


def test_frozen_norm_trains_nothing():
    assert not list(make_norm_layer("frozen")(8).parameters())


def test_group_norm_network_keeps_no_running_statistics():
    assert not list(resnet18(num_classes=3, norm_layer=make_norm_layer("group")).buffers())


def test_sync_norm_without_cuda_says_what_to_use(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DistillError, match="use norm: batch"):
        make_norm_layer("sync")


def test_sync_norm_with_cuda_is_torchs(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert isinstance(make_norm_layer("sync")(4), nn.SyncBatchNorm)


def test_unknown_norm_names_the_known_ones():
    with pytest.raises(RecipeError, match="batch, sync, group, frozen; did you mean 'batch'"):
        make_norm_layer("bach")
