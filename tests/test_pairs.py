"""Any teacher with any student: two steps of the whole job, with losses on logits, maps, vectors and relations."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from distill.models.zoo import create_model

VIT = {"img_size": 64}
PAIRS = [
    ("resnet50", {}, "resnet18"),
    ("resnet101", {}, "resnet34"),
    ("resnet18", {}, "resnet18"),
    ("resnext50_32x4d", {}, "resnet34"),
    ("wide_resnet50_2", {}, "resnet18"),
    ("timm/vit_small_patch16_224", VIT, "resnet18"),
    ("timm/convnext_tiny", {}, "resnet18"),
    ("torchvision/regnet_y_400mf", {}, "resnet18"),
    ("timm/swin_tiny_patch4_window7_224", VIT, "resnet18"),
    ("resnet50", {}, "torchvision/mobilenet_v3_large"),
    ("resnet50", {}, "timm/efficientnet_b0"),
    ("timm/efficientnet_b0", {}, "timm/mobilenetv3_small_100"),
    ("torchvision/swin_t", {}, "torchvision/shufflenet_v2_x0_5"),
    ("resnet34", {}, "timm/vit_tiny_patch16_224"),
]
TINY = ["data.source=synthetic", "data.image_size=64", "data.arguments={num_train: 32, num_val: 16, num_test: 16}", "data.global_batch_size=8"]
LOSSES = {"fitnet": {"weight": 1.0, "layers": ["layer2", "layer3", "layer4"]}, "rkd": {"weight": 1.0}, "dist": {"weight": 1.0}}


@pytest.mark.parametrize("teacher, arguments, student", PAIRS, ids=[f"{teacher}-{student}".replace("/", "_") for teacher, _, student in PAIRS])
def test_two_steps_of_a_pair_across_families(distill, teacher, arguments, student):
    words = [f"teacher.model={teacher}", f"teacher.arguments={json.dumps(arguments)}", f"student.model={student}", f"losses={json.dumps(LOSSES)}"]
    if "vit" in student:
        words.append(f"student.arguments={json.dumps(VIT)}")
    code, _, err = distill("train", "--recipe", "smoke", *TINY, "control=false", *words)
    assert code == 0, err
    lines = [json.loads(line) for line in Path("runs/smoke-seed0/metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert len(steps) == 2
    assert all(math.isfinite(value) for line in steps for value in line.values() if isinstance(value, float))
    assert all({"fitnet", "rkd", "dist", "ce", "kd"} <= line.keys() for line in steps)
    summary = json.loads(Path("runs/smoke-seed0/summary.json").read_text())
    assert "layer2" in summary["distilled"]["cka"]  # in a deep network with random weights the last layers may give the same for every picture
    trained = load_file("runs/smoke-seed0/student.safetensors")
    plain = create_model(student, num_classes=4, arguments=VIT if "vit" in student else {})
    plain.load_state_dict(trained, strict=True)


@pytest.mark.parametrize("library", ["torchvision", "timm"])
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_resnets_of_others_give_the_same_bits_through_our_path(library, name):
    """Theirs as a teacher, and our ResNet with their weights, against the library's own network."""
    import timm
    import torchvision

    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, weights=None, num_classes=5) if library == "torchvision" else timm.create_model(name, num_classes=5)
    images = torch.randn(2, 3, 64, 64)
    expected = theirs.eval()(images)
    for ours in (create_model(f"{library}/{name}", num_classes=5), create_model(name, num_classes=5)):
        ours.load_state_dict(theirs.state_dict(), strict=True)
        assert torch.equal(ours.eval()(images), expected)
