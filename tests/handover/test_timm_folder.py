"""Which students timm can build: those that are the same network there, and no others."""

from __future__ import annotations

import dataclasses

import pytest
import timm
import torch

from distill.errors import RecipeError
from distill.handover.config import Config
from distill.handover.timm_folder import timm_config, why_not
from distill.models.resnet import RESNETS
from distill.models.zoo import create_model

OURS = Config("resnet18", "batch", "imagenet", {}, 32, (0.5,) * 3, (0.25,) * 3, ["cat", "dog"])


@pytest.mark.parametrize("name", RESNETS)
def test_each_resnet_of_ours_has_timms_keys_and_shapes(name):
    with torch.device("meta"):
        ours, theirs = create_model(name, num_classes=7).state_dict(), timm.create_model(name, num_classes=7).state_dict()
    assert {key: tensor.shape for key, tensor in ours.items()} == {key: tensor.shape for key, tensor in theirs.items()}
    assert why_not(dataclasses.replace(OURS, model=name)) is None


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"stem": "small"}, "timm's resnet18 has no stem 'small'"),
        ({"norm": "group"}, "has batch norms, and this student has norm: group"),
        ({"arguments": {"replace_stride_with_dilation": [False, True, True]}}, "is not told student.arguments replace_stride_with_dilation"),
        ({"model": "torchvision/resnet18"}, "is a network of torchvision"),
    ],
)
def test_what_timm_can_not_build_is_refused_with_what_to_do_instead(changes, message):
    config = dataclasses.replace(OURS, **changes)
    with pytest.raises(RecipeError) as refused:
        timm_config(None, config)
    assert message in str(refused.value)
    assert "take --to safetensors" in str(refused.value)


@pytest.mark.parametrize("changes", [{"norm": "sync"}, {"norm": "frozen"}, {"arguments": {"zero_init_residual": True}}])
def test_what_makes_no_difference_to_a_trained_network_is_taken(changes):
    assert "model_args" not in timm_config(None, dataclasses.replace(OURS, **changes))


def test_arguments_of_timms_own_networks_go_along():
    config = dataclasses.replace(OURS, model="timm/test_resnet.r160_in1k", arguments={"drop_rate": 0.3})
    found = timm_config(create_model(config.model, num_classes=2), config)
    assert (found["architecture"], found["model_args"]) == ("test_resnet", {"drop_rate": 0.3})
    assert found["pretrained_cfg"]["first_conv"] == "conv1.0"
    assert not {"url", "hf_hub_id", "license", "label_offset"} & found["pretrained_cfg"].keys()
