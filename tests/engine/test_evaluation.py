"""What is measured when networks are scored, against values worked by hand and by other means."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from distill.data.loader import EvaluationLoader
from distill.data.sources.base import Part
from distill.engine.differing import NUM_OF_A_KIND, DifferingPictures
from distill.engine.evaluation import Score, score
from distill.engine.runtime import make_accelerator
from distill.engine.similarity import LayerSimilarity, unbiased_hsic
from distill.models.zoo import create_model
from distill.structures import Outputs

NUM, CLASSES = 53, 7
LABELS = np.arange(NUM) % CLASSES
PART = Part(LABELS, np.arange(NUM), pixels=torch.randint(0, 256, (NUM, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))


class Says:
    """A network with a fixed table of logits [NUM, CLASSES], which knows each picture by its pixels."""

    def __init__(self, logits: torch.Tensor):
        self.logits = logits

    def __call__(self, images: torch.Tensor) -> Outputs:
        rows = [int((PART.pixels == image).flatten(1).all(dim=1).nonzero()) for image in images]
        return Outputs(self.logits[rows], {}, None)


def random_logits(seed: int) -> torch.Tensor:
    return 3 * torch.randn(NUM, CLASSES, generator=torch.Generator().manual_seed(seed))


def scored(watches=(), **tables: torch.Tensor) -> dict[str, Score]:
    accelerator = make_accelerator()
    loader = EvaluationLoader(PART, 8, batch_size=10, device=accelerator.device)
    return score({name: Says(logits) for name, logits in tables.items()}, loader, accelerator, reference="teacher", watches=watches)


def by_hand(answers: list[int], labels: list[int]) -> Score:
    num = len(labels)
    return Score(np.array(answers), *(np.zeros(num) for _ in range(3)), np.zeros(num, dtype=bool), None, np.array(labels))


def test_agreement_and_agreement_on_mistakes_are_shares():
    ours, theirs = by_hand([0, 1, 1, 3, 2], [0, 1, 2, 3, 0]), by_hand([0, 2, 1, 0, 2], [0, 1, 2, 3, 0])
    assert ours.agreement(theirs) == 3 / 5
    assert ours.agreement_on_mistakes(theirs) == 2 / 4  # wrong on 4: alike on the third and the last
    assert (ours.top1, theirs.top1) == (3 / 5, 1 / 5)
    perfect = by_hand([0, 1, 2, 3, 0], [0, 1, 2, 3, 0])
    assert ours.agreement_on_mistakes(perfect) is None


def test_scores_are_those_of_plain_loops():
    student, teacher = random_logits(1), random_logits(2)
    found = scored(student=student, teacher=teacher)
    confidences, errors, top5, divergences = [], [], [], []
    for row, label in enumerate(LABELS.tolist()):
        p, q = ([math.exp(value) for value in table[row].tolist()] for table in (student, teacher))
        p, q = ([value / sum(values) for value in values] for values in (p, q))
        confidences.append(max(p))
        errors.append(sum((value - (index == label)) ** 2 for index, value in enumerate(p)))
        top5.append(label in sorted(range(CLASSES), key=lambda index: -p[index])[:5])
        divergences.append(sum(b * math.log(b / a) for a, b in zip(p, q, strict=True)))
    ours = found["student"]
    assert ours.confidences == pytest.approx(confidences, rel=1e-5)
    assert ours.brier == pytest.approx(np.mean(errors), rel=1e-5)
    assert ours.top5 == pytest.approx(np.mean(top5))
    assert ours.divergences == pytest.approx(divergences, rel=1e-4, abs=1e-6)
    assert found["teacher"].divergences is None


def test_differing_pictures_are_the_surest_of_each_kind():
    student, teacher, watch = random_logits(3), random_logits(4), DifferingPictures()
    scored(watches=[watch], student=student, teacher=teacher)
    answers = [table.argmax(dim=1).numpy() for table in (student, teacher)]
    differ, confidence = answers[0] != answers[1], student.softmax(dim=1).amax(dim=1).numpy()
    kinds = [differ & (answers[1] == LABELS), differ & (answers[0] == LABELS), differ & (answers[0] != LABELS) & (answers[1] != LABELS)]
    expected = [(kind, row) for kind in range(3) for row in sorted(np.flatnonzero(kinds[kind]), key=lambda row: -confidence[row])[:NUM_OF_A_KIND]]
    found = watch.result()
    assert [(entry.kind, entry.position) for entry in found] == expected
    assert len({entry.kind for entry in found}) == 3
    for entry in found:
        assert (entry.label, entry.student, entry.teacher) == (LABELS[entry.position], *(table[entry.position] for table in answers))
        np.testing.assert_array_equal(entry.picture, PART.pixels[entry.position].numpy())


def test_unbiased_hsic_is_its_definition():
    rows = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    k, other = rows @ rows.T, (rows[:, :2] @ rows[:, :2].T)
    n, one = 6, torch.ones(6, dtype=torch.float64)
    k0, l0 = k - torch.diag(k.diag()), other - torch.diag(other.diag())
    expected = torch.trace(k0 @ l0) + (one @ k0 @ one) * (one @ l0 @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ k0 @ l0 @ one)
    assert unbiased_hsic(k, other).item() == pytest.approx((expected / (n * (n - 3))).item(), rel=1e-10)


class Layers(nn.Module):
    """Two "stages" and a classifier, of fixed linear maps."""

    def __init__(self, first: torch.Tensor, second: torch.Tensor):
        super().__init__()
        for name, weight in {"layer1": first, "layer2": second, "fc": torch.eye(len(second))}.items():
            layer = nn.Linear(weight.shape[1], len(weight), bias=False)
            layer.weight.data = weight
            setattr(self, name, layer)

    def forward(self, images: torch.Tensor) -> Outputs:
        return Outputs(self.fc(self.layer2(self.layer1(images.float().flatten(1) / 255))), {}, None)


def similarity(student: nn.Module, teacher: nn.Module) -> dict[str, float]:
    accelerator, watch = make_accelerator(), LayerSimilarity(student, teacher)
    loader = EvaluationLoader(PART, 8, batch_size=NUM, device=accelerator.device)
    score({"student": student, "teacher": teacher}, loader, accelerator, watches=[watch])
    watch.remove()
    assert not student.layer1._forward_hooks
    return watch.result(accelerator)


def test_cka_is_1_for_a_turned_and_scaled_layer_and_near_0_for_another_one():
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(12, 192, generator=generator)
    turn = torch.linalg.qr(torch.randn(12, 12, generator=generator)).Q
    apart = torch.zeros(8, 12)
    apart[:, :8] = torch.diag(torch.tensor([9.0, 5, 1, 1, 1, 1, 1, 1]))
    student, teacher = Layers(first, torch.eye(12)), Layers(7 * turn @ first, apart)
    found = similarity(student, teacher)
    assert found["layer1"] == pytest.approx(1, abs=1e-5)
    assert 0.2 < found["layer2"] < 0.95
    other = Layers(torch.randn(12, 192, generator=generator) @ torch.diag((torch.arange(192) >= 96).float()), torch.eye(12))
    here = Layers(first @ torch.diag((torch.arange(192) < 96).float()), torch.eye(12))
    assert abs(similarity(here, other)["layer1"]) < 0.2  # of pixels that have nothing to do with each other


def test_layers_that_one_network_lacks_are_left_out():
    ours, theirs = create_model("resnet18", num_classes=4), create_model("timm/mobilenetv3_small_050", num_classes=4)
    assert LayerSimilarity(ours, theirs).layers == ["layer1", "layer2", "layer3", "layer4", "pooled"]
    two = Layers(torch.eye(12), torch.eye(12))
    assert LayerSimilarity(ours, two).layers == ["layer1", "layer2", "pooled"]
    assert LayerSimilarity(ours, two, ({}, {"layer3": "layer2"})).layers == ["layer1", "layer2", "layer3", "pooled"]
