"""What a loss is called with in the kit: two small networks' shapes and answers, and pictures, all random and the same every time."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from distill.structures import Batch, DataInfo, FeatureShape, Head, ModelInfo, Norm, Outputs

BATCH_SIZE = 6
_NUM_SAMPLES = 40
_STAGES = ("layer1", "layer2", "layer3", "layer4")
_IDS_SEED, _LABELS_SEED, _BATCH_SEED, _HEAD_SEED, _NORMS_SEED, _OUTPUTS_SEED = range(6)


@dataclass(frozen=True)
class Network:
    """A network that is not there: its shapes, and answers that could be those of a ResNet."""

    name: str
    widths: tuple[int, int, int, int]  # of layer1 .. layer4; the last is the width of "pooled" too
    sides: tuple[int, int, int, int] = (8, 4, 3, 2)
    num_classes: int = 5
    has_head: bool = True
    has_norms: bool = True

    def info(self, layers: Sequence[str]) -> ModelInfo:
        """What a loss may know of it before training."""
        shapes = {layer: self._shape(layer) for layer in layers}
        norms = {layer: self._norm(_stage(layer)) for layer in layers if self.has_norms and _plain(layer) in _STAGES}
        weight, bias = self._head() if self.has_head else (None, None)
        return ModelInfo(self.name, self.num_classes, shapes, weight, bias, norms)

    def outputs(self, layers: Sequence[str], num_samples: int, seed: int = 0) -> Outputs:
        """Logits [N, K], features by name, and the head that makes these logits of "pooled"."""
        before = [self._before_activation(stage, num_samples, seed) for stage in range(4)]
        pooled, (weight, bias) = before[3].relu().mean(dim=(2, 3)), self._head()
        features = {layer: pooled.clone() if layer == "pooled" else self._map(layer, before, seed) for layer in layers}
        return Outputs(pooled @ weight.T + bias, features, Head(weight, bias) if self.has_head else None)

    def _shape(self, layer: str) -> FeatureShape:
        stage = _stage(layer)
        return FeatureShape(self.widths[-1]) if layer == "pooled" else FeatureShape(self.widths[stage], self.sides[stage], self.sides[stage])

    def _map(self, layer: str, before: list[Tensor], seed: int) -> Tensor:
        if layer in _STAGES or layer == "last":
            return before[_stage(layer)].relu()
        if _plain(layer) in _STAGES:
            return before[_stage(layer)].clone()
        shape = (size for size in self._shape(layer) if size is not None)
        return self._normal((len(before[0]), *shape), _OUTPUTS_SEED, zlib.crc32(layer.encode()), seed)

    def _before_activation(self, stage: int, num_samples: int, seed: int) -> Tensor:
        norm, side = self._norm(stage), self.sides[stage]
        values = self._normal((num_samples, self.widths[stage], side, side), _OUTPUTS_SEED, stage, seed)
        return values * norm.weight[:, None, None] + norm.bias[:, None, None]

    def _norm(self, stage: int) -> Norm:
        values = self._normal((2, self.widths[stage]), _NORMS_SEED, stage)
        return Norm(1 + 0.2 * values[0], 0.3 * values[1])

    def _head(self) -> tuple[Tensor, Tensor]:
        weight = self._normal((self.num_classes, self.widths[-1]), _HEAD_SEED)
        return weight * 2, 0.1 * weight[:, 0].clone()

    def _normal(self, shape: tuple[int, ...], *key: int) -> Tensor:
        return torch.randn(shape, generator=_generator(*self.name.encode(), *key))


STUDENT, TEACHER = Network("student", (4, 4, 8, 8)), Network("teacher", (8, 8, 12, 12))


class Case(NamedTuple):
    """The three arguments of a loss."""

    student: Outputs
    teacher: Outputs | None
    batch: Batch


def make_data() -> DataInfo:
    """The training pictures: ids with gaps in no order, as they are where a part was set aside; labels 0 .. 4."""
    ids = 3 * torch.randperm(_NUM_SAMPLES, generator=_generator(_IDS_SEED)) + 7
    return DataInfo(ids, torch.randperm(_NUM_SAMPLES, generator=_generator(_LABELS_SEED)) % STUDENT.num_classes)


def make_batch(num_samples: int, seed: int = 0) -> Batch:
    """Some of the training pictures."""
    data, positions = make_data(), torch.randperm(_NUM_SAMPLES, generator=_generator(_BATCH_SEED, seed))[:num_samples]
    images = torch.randint(0, 256, (num_samples, 3, 16, 16), dtype=torch.uint8, generator=_generator(_BATCH_SEED, seed))
    return Batch(images, data.labels[positions], data.sample_ids[positions], torch.zeros_like(positions))


def take(case: Case, rows: Sequence[int]) -> Case:
    """These samples of a case, in this order."""
    index = torch.tensor(rows)

    def of(outputs: Outputs) -> Outputs:
        return Outputs(outputs.logits[index], {name: feature[index] for name, feature in outputs.features.items()}, outputs.head)

    teacher = None if case.teacher is None else of(case.teacher)
    return Case(of(case.student), teacher, convert_batch(case.batch, lambda tensor: tensor[index] if len(tensor) else tensor))


Change = Callable[[Tensor], Tensor]


def change(case: Case, whose: Sequence[str] = ("student", "teacher"), *, logits: Change | None = None, features: Change | None = None) -> Case:
    """The case with other logits or features."""
    there = {name: getattr(case, name) for name in whose if getattr(case, name) is not None}
    changed: dict[str, Any] = {name: changed_outputs(outputs, logits=logits, features=features) for name, outputs in there.items()}
    return case._replace(**changed)


def changed_outputs(outputs: Outputs, *, logits: Change | None = None, features: Change | None = None, head: Change | None = None) -> Outputs:
    """One network's outputs with some of the tensors changed."""
    classifier = outputs.head
    if head and classifier:
        classifier = Head(head(classifier.weight), None if classifier.bias is None else head(classifier.bias))
    return Outputs(
        logits(outputs.logits) if logits else outputs.logits,
        {name: features(feature) if features else feature for name, feature in outputs.features.items()},
        classifier,
    )


def convert(case: Case, to: Change) -> Case:
    """The case with every floating-point tensor of the two networks changed, heads included."""
    student, teacher = (None if one is None else changed_outputs(one, logits=to, features=to, head=to) for one in (case.student, case.teacher))
    assert student is not None
    return Case(student, teacher, case.batch)


def convert_batch(batch: Batch, to: Change) -> Batch:
    """The batch with every tensor changed."""
    changed: dict[str, Any] = {name: to(value) for name, value in batch._asdict().items() if isinstance(value, Tensor)}
    return batch._replace(**changed)


def _stage(layer: str) -> int:
    """0 .. 3: layer1 .. layer4 by what the path begins with; the end for "last", and layer3 for what is not known."""
    begin = layer.split(".")[0]
    return 3 if begin == "last" else _STAGES.index(begin) if begin in _STAGES else 2


def _plain(layer: str) -> str:
    return layer.removesuffix(".pre")


def _generator(*key: int) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(repr(key).encode()))
