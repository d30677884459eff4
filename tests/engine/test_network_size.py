"""teacher.image_size: the teacher is shown the student's view in a size of its own, and everything that is measured of it is of that size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from distill.build.pieces import build_pieces, rehearse
from distill.data.resizing import plain_view
from distill.data.sources.synthetic import Synthetic
from distill.engine.costs import measure_costs
from distill.engine.network import Network
from distill.engine.teacher import Teacher
from distill.losses.fitnet import FitNet
from distill.models.zoo import create_model
from distill.recipe_files import load_recipe
from distill.resolve import Catalogue
from distill.structures import Batch

CPU = torch.device("cpu")
SOURCE = Synthetic(num_train=64, num_val=8, num_test=8)
LAYERS = ("layer1", "layer3", "pooled")


def pictures(num: int = 4, size: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (num, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(size))


def network(**options) -> Network:
    torch.manual_seed(0)
    return Network(create_model("resnet18", num_classes=4), mean=(0.4, 0.5, 0.6), std=(0.2,) * 3, layers=LAYERS, **options).eval()


@pytest.mark.parametrize("size", [48, 16, 32])
@torch.no_grad()
def test_network_answers_as_one_that_is_shown_the_resized_picture(size):
    ours, theirs = network(image_size=size)(pictures()), network()(plain_view(pictures(), size))
    assert torch.equal(ours.logits, theirs.logits)
    assert set(ours.features) == set(LAYERS)
    for name in LAYERS:
        assert torch.equal(ours.features[name], theirs.features[name])
    assert ours.features["layer1"].shape[-1] == size // 4
    plain = network()(pictures())
    assert torch.equal(plain.logits, ours.logits) == (size == 32)


@torch.no_grad()
def test_what_the_network_sees_is_the_picture_in_that_size():
    """Within one grey level of torch's own resizing, and normalised."""
    seen = []
    asked = network(image_size=48)
    asked.model.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].clone()))
    asked(pictures())
    grey = seen[0] * 0.2 + torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)
    expected = F.interpolate(pictures().double(), (48, 48), mode="bilinear", antialias=True) / 255
    assert seen[0].shape == (4, 3, 48, 48)
    assert (grey - expected).abs().max() < 1.01 / 255


@torch.no_grad()
def test_answer_does_not_depend_on_the_batch_and_the_picture_is_left_alone():
    images = pictures(6)
    before, asked = images.clone(), network(image_size=48)
    together = asked(images).logits
    assert torch.equal(images, before)
    assert torch.allclose(torch.cat([asked(images[i : i + 1]).logits for i in range(6)]), together, atol=1e-5)


def test_network_of_the_same_kind_sees_the_same_size():
    copy = network(image_size=48).like(network().model)
    assert copy.image_size == 48
    assert torch.equal(copy.eval()(pictures()).logits, network(image_size=48)(pictures()).logits)


def test_teacher_answers_in_its_own_size():
    batch = Batch(pictures(), torch.zeros(4, dtype=torch.int64), torch.arange(4), torch.zeros(4, dtype=torch.int64))
    answers = Teacher(network(image_size=48))(batch)
    assert torch.equal(answers.logits, network()(plain_view(pictures(), 48)).logits)


def test_costs_are_those_of_the_size_that_is_seen():
    """ResNet-18's convolutions have (48 / 32)^2 = 2.25 times as many places at 48 px, but for layer4, which has 2x2 instead of 1x1. Resizing may be
    counted too: it is much less than the network."""
    small, large = (measure_costs(network(image_size=size), 32, batch_size=1).gmacs for size in (None, 48))
    assert 2.2 < large / small < 3
    assert large == pytest.approx(measure_costs(network(), 48, batch_size=1).gmacs, rel=0.01)


def pieces(*overrides: str):
    recipe = load_recipe("smoke", ["teacher.model=resnet18", "losses.fitnet={weight: 1, layers: [layer2]}", *overrides])
    return build_pieces(recipe, Catalogue(), SOURCE, device=CPU, precision="fp32", weights={})


def test_recipe_gives_the_size_to_the_teacher_and_not_to_the_student():
    built = pieces("teacher.image_size=48")
    assert built.teacher.network.image_size == 48
    assert built.distiller.student.image_size is None
    plain = pieces()
    assert plain.teacher.network.image_size is None
    images = pictures()
    ours, theirs = built.distiller.student.eval(), plain.distiller.student.eval()
    assert torch.equal(ours(images).logits, theirs(images).logits)
    assert torch.equal(built.teacher.network(images).logits, plain.teacher.network(plain_view(images, 48)).logits)
    assert built.teacher.network(images).features["layer2"].shape == (4, 128, 6, 6)


def test_losses_are_told_the_shapes_of_both_sizes(monkeypatch):
    told = {}
    original = FitNet.setup

    def setup(self, student, teacher):
        told.update(student=student.shapes["layer2"], teacher=teacher.shapes["layer2"])
        original(self, student, teacher)

    monkeypatch.setattr(FitNet, "setup", setup)
    built = pieces("teacher.image_size=48")
    assert (told["student"].height, told["student"].width) == (4, 4)
    assert (told["teacher"].height, told["teacher"].width) == (6, 6)
    assert rehearse(built, SOURCE) == []


def test_run_with_a_teacher_of_another_size(distill):
    common = ["--recipe", "smoke", "teacher.model=timm/test_resnet", "student.model=timm/test_resnet", "train.precision=fp32"]
    for name, size in (("same", "null"), ("larger", "48")):
        code, _, err = distill("train", *common, f"teacher.image_size={size}", f"run_name={name}")
        assert code == 0, err
    same, larger = (json.loads(Path(f"runs/{name}/summary.json").read_text()) for name in ("same", "larger"))
    assert larger["teacher"]["gmacs"] > 2.2 * same["teacher"]["gmacs"]
    assert larger["distilled"]["gmacs"] == same["distilled"]["gmacs"]
    assert larger["data"]["image_size"] == 32
    logs = [[json.loads(line) for line in Path(f"runs/{name}/metrics.jsonl").read_text().splitlines()] for name in ("same", "larger")]
    assert logs[0][0]["ce"] == logs[1][0]["ce"]  # the student and what it sees are the same
    assert not np.isclose(logs[0][0]["kd"], logs[1][0]["kd"], rtol=1e-4)
