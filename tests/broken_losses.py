"""Losses with one defect each, most of them found in published code, and their mended twins: what the kit must name, and what it must pass.

Each broken class differs from its mended one in the defect alone. The peers are those of the catalogue of verified defects.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.errors import RecipeError
from distill.losses import _require
from distill.losses.base import DistillLoss, keyed_uniform, label_shares, upcast
from distill.models.projector import Projector


class _Logits(DistillLoss):
    def setup(self, student, teacher):
        _require.equal_classes(student, teacher)


class _Maps(DistillLoss):
    def __init__(self):
        super().__init__(layers=["layer3"])

    def setup(self, student, teacher):
        self.projector = Projector(student.shapes["layer3"], teacher.shapes["layer3"])

    def maps(self, student, teacher):
        return upcast(self.projector(student.features["layer3"])), upcast(teacher.features["layer3"])


class _Vectors(DistillLoss):
    def __init__(self):
        super().__init__(layers=["pooled"])

    def setup(self, student, teacher):
        self.projector = Projector(student.shapes["pooled"], teacher.shapes["pooled"])

    def vectors(self, student, teacher):
        return upcast(self.projector(student.features["pooled"])), upcast(teacher.features["pooled"])


# The mean over the batch


class KL(_Logits):
    zero_at_identity = True
    reduction = "batchmean"

    def forward(self, student, teacher, batch):
        ours, theirs = F.log_softmax(student.logits, dim=1), F.log_softmax(teacher.logits, dim=1)
        return F.kl_div(ours, theirs, reduction=self.reduction, log_target=True)


class SumOverTheBatch(KL):
    """mmrazor's DKD: size_average=False."""

    reduction = "sum"


class MeanOverClassesToo(KL):
    """modelopt, DeiT: a thousandth on ImageNet. Torch itself warns; a value alone doesn't show it."""

    reduction = "mean"


class DropsTheBatchAxis(KL):
    """image_classification_sota: output[0] if len(output) == 1. Then kl_div takes the classes for samples."""

    def forward(self, student, teacher, batch):
        ours, theirs = F.log_softmax(student.logits, dim=1), F.log_softmax(teacher.logits, dim=1)
        if len(ours) == 1:
            ours, theirs = ours[0], theirs[0]
        return F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


class Cosine(_Vectors):
    def forward(self, student, teacher, batch):
        ours, theirs = self.vectors(student, teacher)
        return 1 - F.cosine_similarity(ours, theirs, dim=1).mean()


class SqueezesTheBatchAxis(Cosine):
    def forward(self, student, teacher, batch):
        ours, theirs = self.vectors(student, teacher)
        return 1 - F.cosine_similarity(ours.squeeze(), theirs.squeeze(), dim=1).mean()


class NoScalar(Cosine):
    def forward(self, student, teacher, batch):
        ours, theirs = self.vectors(student, teacher)
        return 1 - F.cosine_similarity(ours, theirs, dim=1)


# Relations between samples


class Similarity(_Vectors):
    """The rows of both similarity matrices, as in SP."""

    batch_coupled = True

    def forward(self, student, teacher, batch):
        ours, theirs = (F.normalize(each @ each.T, dim=1) for each in self.vectors(student, teacher))
        return (ours - theirs).square().mean()


class SimilarityUndeclared(Similarity):
    batch_coupled = False


class CountsPictures(Similarity):
    """On several processes a loss that relates samples gets the global batch without its pictures."""

    def forward(self, student, teacher, batch):
        return super().forward(student, teacher, batch) * len(student.logits) / len(batch.images)


class Neighbours(Similarity):
    """RepDistiller's CC compares each sample with the next one only."""

    def forward(self, student, teacher, batch):
        ours, theirs = (F.normalize(each, dim=1) for each in self.vectors(student, teacher))
        return ((ours * ours.roll(1, dims=0)).sum(dim=1) - (theirs * theirs.roll(1, dims=0)).sum(dim=1)).square().mean()


class Distances(_Vectors):
    """Distances of all pairs, as in RKD."""

    batch_coupled = True
    epsilon = 1e-6

    def forward(self, student, teacher, batch):
        ours, theirs = self.vectors(student, teacher)
        return F.smooth_l1_loss(self.distances(ours), self.distances(theirs))

    def distances(self, vectors: Tensor) -> Tensor:
        return ((vectors[:, None] - vectors[None]).square().sum(dim=2) + self.epsilon).sqrt()


class DistancesWithoutEpsilon(Distances):
    """The gradient of sqrt(0): every batch of one sample has it, on the diagonal; the diagonal is left out in larger ones."""

    epsilon = 0.0

    def distances(self, vectors: Tensor) -> Tensor:
        is_other = ~torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
        squares = (vectors[:, None] - vectors[None]).square().sum(dim=2)
        return torch.where(is_other, torch.where(is_other, squares, 1).sqrt(), 0)


# Parameters and gradients


class Variances(_Maps):
    """A variance for each channel, as in VID."""

    def setup(self, student, teacher):
        super().setup(student, teacher)
        self.log_variances = nn.ParameterList([torch.zeros(teacher.shapes["layer3"].channels)])

    def forward(self, student, teacher, batch):
        ours, theirs = self.maps(student, teacher)
        log_variance = self.log_variances[0][:, None, None]
        return ((ours - theirs).square() / log_variance.exp() + log_variance).mean()


class VariancesInAList(Variances):
    """mdistiller's VID: log_scales is a Python list."""

    def setup(self, student, teacher):
        super().setup(student, teacher)
        self.__dict__["log_variances"] = list(self.log_variances)
        del self._modules["log_variances"]


class VariancesDetached(Variances):
    def forward(self, student, teacher, batch):
        ours, theirs = self.maps(student, teacher)
        log_variance = self.log_variances[0][:, None, None].detach()
        return ((ours - theirs).square() / log_variance.exp() + log_variance).mean()


class Terms(_Vectors):
    """A module for each term."""

    def setup(self, student, teacher):
        self.terms = nn.ModuleDict({"pooled": Projector(student.shapes["pooled"], teacher.shapes["pooled"])})

    def forward(self, student, teacher, batch):
        ours, theirs = upcast(self.terms["pooled"](student.features["pooled"])), upcast(teacher.features["pooled"])
        return (ours - theirs).square().mean()


class TermsInADict(Terms):
    """torchdistill's term_dict: none of its parameters is in .parameters()."""

    def setup(self, student, teacher):
        self.terms = {"pooled": Projector(student.shapes["pooled"], teacher.shapes["pooled"])}


class Scaled(KL):
    """A learned factor."""

    def setup(self, student, teacher):
        super().setup(student, teacher)
        self.log_factor = nn.Parameter(torch.tensor(0.1))

    def factor(self) -> Tensor:
        return self.log_factor.exp()

    def forward(self, student, teacher, batch):
        return self.factor() * super().forward(student, teacher, batch)


class FactorInAFunction(Scaled):
    """No attribute shows it; the value's graph does."""

    def setup(self, student, teacher):
        super().setup(student, teacher)
        log_factor, self.log_factor = self.log_factor, None
        self.factor = lambda: log_factor.exp()


class UnusedProjector(_Maps):
    def setup(self, student, teacher):
        super().setup(student, teacher)
        self.spare = nn.Linear(3, 3)

    def forward(self, student, teacher, batch):
        ours, theirs = self.maps(student, teacher)
        return (ours - theirs).square().mean()


class Hint(UnusedProjector):
    def setup(self, student, teacher):
        super().setup(student, teacher)
        del self.spare


class DetachedStudent(Hint):
    """YOLO-Master, pull request 240: hooks under no_grad. The projector still learns, so the value falls."""

    def forward(self, student, teacher, batch):
        with torch.no_grad():
            feature = student.features["layer3"].clone()
        return (upcast(self.projector(feature)) - upcast(teacher.features["layer3"])).square().mean()


class TwoLayers(DistillLoss):
    def __init__(self):
        super().__init__(layers=["layer2", "layer3"])

    def setup(self, student, teacher):
        self.projectors = nn.ModuleDict({layer: Projector(student.shapes[layer], teacher.shapes[layer]) for layer in self.layers})

    def forward(self, student, teacher, batch):
        pairs = {layer: (upcast(self.projectors[layer](self.feature(student, layer))), upcast(teacher.features[layer])) for layer in self.layers}
        return sum((ours - theirs).square().mean() for ours, theirs in pairs.values())

    def feature(self, student, layer):
        return student.features[layer]


class OneLayerDetached(TwoLayers):
    def feature(self, student, layer):
        return student.features[layer].detach() if layer == "layer2" else student.features[layer]


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:
        return tensor.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return 2 * gradient


class WrongBackward(KL):
    """The gradient of one of two terms is twice what it should be."""

    def forward(self, student, teacher, batch):
        return super().forward(student._replace(logits=_Doubled.apply(student.logits)), teacher, batch)


class FocalWeight(_Logits):
    """A weight that depends on the student, without gradient on purpose, as in WSLD: nothing is wrong with it."""

    def forward(self, student, teacher, batch):
        theirs = F.softmax(teacher.logits, dim=1)
        divergence = F.cross_entropy(student.logits, theirs, reduction="none")
        with torch.no_grad():
            weight = 1 - (-divergence).exp()
        return (weight * divergence + F.softmax(student.logits, dim=1).detach()[:, 0] * divergence).mean()


# Numbers at the edges


class TargetShare(_Logits):
    """The target class against all the others, as in DKD."""

    def forward(self, student, teacher, batch):
        ours, theirs = (self.log_others(each.logits, batch) for each in (student, teacher))
        return (theirs.exp() * (theirs - ours)).sum(dim=1).mean()

    needs_labels, takes_soft_labels = True, False

    def log_others(self, logits: Tensor, batch) -> Tensor:
        is_target = F.one_hot(batch.labels, logits.shape[1]).bool()
        log_shares = F.log_softmax(logits, dim=1)
        others = torch.where(is_target, -torch.inf, log_shares).logsumexp(dim=1)
        return torch.stack([torch.where(is_target, log_shares, 0).sum(dim=1), others], dim=1).clamp(min=-1e5)


class LogOfASum(TargetShare):
    """mdistiller's DKD: log(p.sum()) is -inf for saturated logits."""

    def log_others(self, logits: Tensor, batch) -> Tensor:
        is_target = F.one_hot(batch.labels, logits.shape[1]).bool()
        shares = F.softmax(logits, dim=1)
        return torch.stack([torch.where(is_target, shares, 0).sum(dim=1), torch.where(is_target, 0, shares).sum(dim=1)], dim=1).log()


class Attention(DistillLoss):
    """Maps of squares, as in AT."""

    def __init__(self):
        super().__init__(layers=["layer3"])

    def setup(self, student, teacher):
        if student.shapes["layer3"][1:] != teacher.shapes["layer3"][1:]:
            raise RecipeError("layer3: the maps differ in size")

    def forward(self, student, teacher, batch):
        ours, theirs = (F.normalize(self.squares(each.features["layer3"]).flatten(1), dim=1) for each in (student, teacher))
        return (ours - theirs).square().mean()

    def squares(self, feature: Tensor) -> Tensor:
        return upcast(feature).square().mean(dim=1)


class SquaresInHalf(Attention):
    """Most implementations of AT: pow(2).mean() above 65504 is infinite in float16."""

    def squares(self, feature: Tensor) -> Tensor:
        return upcast(feature.square().mean(dim=1))


class ViewsMaps(Attention):
    def squares(self, feature: Tensor) -> Tensor:
        return upcast(feature).square().view(len(feature), -1).unflatten(1, (feature.shape[1], -1)).mean(dim=1)


class NotNormalisedSafely(Attention):
    def forward(self, student, teacher, batch):
        ours, theirs = (self.squares(each.features["layer3"]).flatten(1) for each in (student, teacher))
        return (ours / ours.norm(dim=1, keepdim=True) - theirs / theirs.norm(dim=1, keepdim=True)).square().mean()


class SpatialShares(Attention):
    """Where the strongest place of the teacher's map is left out."""

    def forward(self, student, teacher, batch):
        ours, theirs = (self.fill(each.features["layer3"].flatten(2), teacher.features["layer3"].flatten(2)) for each in (student, teacher))
        return F.kl_div(ours.mean(dim=1), theirs.mean(dim=1), reduction="batchmean", log_target=True)

    def fill(self, feature: Tensor, theirs: Tensor) -> Tensor:
        strongest = theirs.mean(dim=1, keepdim=True)
        return F.log_softmax(upcast(feature).masked_fill(strongest == strongest.amax(dim=2, keepdim=True), -1e4), dim=2).clamp(min=-50)


class MasksWithABillion(SpatialShares):
    """RLD and many others: masked_fill(-1e9) raises in float16."""

    def fill(self, feature: Tensor, theirs: Tensor) -> Tensor:
        strongest = theirs.mean(dim=1, keepdim=True)
        return F.log_softmax(upcast(feature.masked_fill(strongest == strongest.amax(dim=2, keepdim=True), -1e9)), dim=2).clamp(min=-50)


class ValueInHalf(Hint):
    """The value has the features' precision, though it is finite."""

    def forward(self, student, teacher, batch):
        return F.l1_loss(self.projector(student.features["layer3"]), teacher.features["layer3"])


class ReplacesNan(KL):
    """SDD: not a number becomes a zero without gradient."""

    def forward(self, student, teacher, batch):
        value = super().forward(student, teacher, batch)
        return torch.where(value.isnan(), 0, value)


class Correlation(_Logits):
    """1 - Pearson's correlation of the classes, as in DIST."""

    zero_at_identity = True

    def forward(self, student, teacher, batch):
        ours, theirs = (each.logits - each.logits.mean(dim=1, keepdim=True) for each in (student, teacher))
        return 1 - F.cosine_similarity(ours, theirs, dim=1, eps=1e-3).mean()


class WrongSign(Correlation):
    """torchdistill's DISTPlus: identical features do not give 0."""

    def forward(self, student, teacher, batch):
        ours, theirs = (each.logits - each.logits.mean(dim=1, keepdim=True) for each in (student, teacher))
        return 1 + F.cosine_similarity(ours, theirs, dim=1, eps=1e-3).mean()


class DrivesAway(KL):
    """The two arguments of the difference are swapped: 0 where both are equal, and below 0 elsewhere."""

    def forward(self, student, teacher, batch):
        return -super().forward(student, teacher, batch)


# Labels


class Labelled(_Logits):
    """Cross-entropy times the teacher's share of the label."""

    needs_labels = True

    def forward(self, student, teacher, batch):
        shares = self.shares(batch.labels, student.logits)
        return -(shares * F.softmax(teacher.logits, dim=1) * F.log_softmax(student.logits, dim=1)).sum(dim=1).mean()

    def shares(self, labels: Tensor, logits: Tensor) -> Tensor:
        return label_shares(labels, logits)


class LargestShare(Labelled):
    """cls_KD's NKD: the class with the largest share, silently."""

    def shares(self, labels: Tensor, logits: Tensor) -> Tensor:
        return F.one_hot(labels.argmax(dim=1) if labels.ndim == 2 else labels, logits.shape[1]).to(logits.dtype)


class HardOnly(Labelled):
    takes_soft_labels = False

    def shares(self, labels: Tensor, logits: Tensor) -> Tensor:
        return F.one_hot(labels, logits.shape[1]).to(logits.dtype)


class HardOnlyUndeclared(HardOnly):
    """mdistiller's DKD with mixup: a RuntimeError in the middle of training."""

    takes_soft_labels = True


# Compiling


class OthersOnly(_Logits):
    """The classes other than the label, as in NKD."""

    needs_labels, takes_soft_labels = True, False

    def forward(self, student, teacher, batch):
        ours, theirs = (self.others(each.logits, batch.labels) for each in (student, teacher))
        return (ours - theirs).square().sum(dim=1).mean()

    def others(self, logits: Tensor, labels: Tensor) -> Tensor:
        is_target = F.one_hot(labels, logits.shape[1]).bool()
        return F.softmax(torch.where(is_target, -1e9, logits), dim=1)


class BooleanIndex(OthersOnly):
    """cls_KD's NKD: logits[mask].reshape."""

    def others(self, logits: Tensor, labels: Tensor) -> Tensor:
        is_target = F.one_hot(labels, logits.shape[1]).bool()
        return F.softmax(logits[~is_target].reshape(len(logits), -1), dim=1)


class LooksAtAValue(KL):
    """Scaled by a number that must come to the CPU first."""

    needs_sample_ids = True

    def forward(self, student, teacher, batch):
        return super().forward(student, teacher, batch) * 0.5 ** batch.view.max().item()


class Branches(KL):
    """One sample decides what is computed for all."""

    def forward(self, student, teacher, batch):
        value = super().forward(student, teacher, batch)
        return value if value < 1e9 else 2 * value


# What is kept


class KeepsTheValue(KL):
    def forward(self, student, teacher, batch):
        self.last = super().forward(student, teacher, batch)
        return self.last


class KeepsInAList(KL):
    history: list[Tensor] = []  # noqa: RUF012  shared by all, which is the point

    def forward(self, student, teacher, batch):
        if not torch.compiler.is_compiling():
            self.history.append(student.logits)
        return super().forward(student, teacher, batch)


class Counts(KL):
    """A warm-up of one's own that no checkpoint knows of."""

    def __init__(self):
        super().__init__()
        self.num_calls = 0

    def forward(self, student, teacher, batch):
        self.num_calls += 1
        return super().forward(student, teacher, batch)


class Centred(_Vectors):
    """The teacher's vectors around their running mean, which changes after it is used, in training."""

    is_persistent, updates_in_eval = True, False

    def setup(self, student, teacher):
        super().setup(student, teacher)
        self.register_buffer("centre", torch.zeros(teacher.shapes["pooled"].channels), persistent=self.is_persistent)

    def forward(self, student, teacher, batch):
        ours, theirs = self.vectors(student, teacher)
        value = (ours - (theirs - self.centre.clone())).square().mean()
        if self.training or self.updates_in_eval:
            self.update(theirs)
        return value

    def update(self, theirs: Tensor) -> None:
        self.centre.lerp_(theirs.mean(dim=0).to(self.centre.dtype), 0.1)


class ForgetsItsCentre(Centred):
    is_persistent = False


class UpdatesInEval(Centred):
    updates_in_eval = True


class Queue(Centred):
    """A queue without an end."""

    def setup(self, student, teacher):
        super().setup(student, teacher)
        self.register_buffer("queue", torch.zeros(1, teacher.shapes["pooled"].channels), persistent=False)

    def update(self, theirs: Tensor) -> None:
        super().update(theirs)
        self.queue = torch.cat([self.queue, theirs.detach()])


# Inputs


class WritesIntoTheTeacher(KL):
    def forward(self, student, teacher, batch):
        teacher.logits.sub_(teacher.logits.amax(dim=1, keepdim=True))
        return super().forward(student, teacher, batch)


class WritesIntoTheStudent(Hint):
    def forward(self, student, teacher, batch):
        F.relu(student.features["layer3"], inplace=True)  # as it was, but overwritten
        return super().forward(student, teacher, batch)


class TeacherWithGradient(KL):
    def forward(self, student, teacher, batch):
        teacher.logits.requires_grad_()
        return super().forward(student, teacher, batch)


class TakesFeaturesAway(Hint):
    def forward(self, student, teacher, batch):
        return super().forward(student._replace(features={"layer3": student.features.pop("layer3")}), teacher, batch)


# Randomness and the process


class Masked(Hint):
    """Some of the student's channels are hidden, as in MGD."""

    needs_sample_ids = True

    def forward(self, student, teacher, batch):
        feature = student.features["layer3"]
        return super().forward(student._replace(features={"layer3": feature * self.is_seen(feature, batch)[:, :, None, None]}), teacher, batch)

    def is_seen(self, feature: Tensor, batch) -> Tensor:
        return (keyed_uniform(batch.sample_ids, batch.view, feature.shape[1], stream=1) > 0.2).to(feature.dtype)


class MaskedGlobally(Masked):
    """Another mask each time, and other numbers for everybody after it."""

    needs_sample_ids = False

    def is_seen(self, feature: Tensor, batch) -> Tensor:
        return (torch.rand(feature.shape[:2], device=feature.device) > 0.2).to(feature.dtype)


class RandomTemperature(KL):
    def forward(self, student, teacher, batch):
        temperature = 1 + torch.rand((), device=student.logits.device)
        return super().forward(student._replace(logits=student.logits / temperature), teacher._replace(logits=teacher.logits / temperature), batch)


class OwnGenerator(Hint):
    """Leaves the process's numbers alone, but can't be resumed."""

    def __init__(self):
        super().__init__()
        self.random = np.random.default_rng(0)

    def forward(self, student, teacher, batch):
        return self.random.uniform(0.5, 1.5) * super().forward(student, teacher, batch)


class FixedDirections(_Vectors):
    """The distance along a random direction."""

    def setup(self, student, teacher):
        super().setup(student, teacher)
        self.register_buffer("direction", self.draw(teacher.shapes["pooled"].channels))

    def draw(self, width: int) -> Tensor:
        return torch.randn(width) / width

    def forward(self, student, teacher, batch):
        ours, theirs = self.vectors(student, teacher)
        return ((ours - theirs) @ self.direction).square().mean()


class DirectionsFromNumpy(FixedDirections):
    def draw(self, width: int) -> Tensor:
        return torch.from_numpy(np.random.standard_normal(width)).float() / width


class DirectionsNotKept(FixedDirections):
    """In no checkpoint, and random."""

    def setup(self, student, teacher):
        super().setup(student, teacher)
        self.register_buffer("direction", self.direction, persistent=False)


class PlainTensor(FixedDirections):
    """Stays on the CPU."""

    def setup(self, student, teacher):
        _Vectors.setup(self, student, teacher)
        self.directions = [torch.full((teacher.shapes["pooled"].channels,), 0.1)]

    def forward(self, student, teacher, batch):
        ours, theirs = self.vectors(student, teacher)
        return ((ours - theirs) @ self.directions[0].to(ours.dtype)).square().mean()


class NewTensorOnTheCpu(FixedDirections):
    def forward(self, student, teacher, batch):
        ours, theirs = self.vectors(student, teacher)
        return ((ours - theirs) @ (self.direction * torch.linspace(0, 1, ours.shape[1], dtype=ours.dtype))).square().mean()


class LeavesGradientsOn(KL):
    def forward(self, student, teacher, batch):
        torch.set_grad_enabled(False)
        theirs = F.log_softmax(teacher.logits, dim=1)
        torch.set_grad_enabled(True)
        return F.kl_div(F.log_softmax(student.logits, dim=1), theirs, reduction="batchmean", log_target=True)


# Precision


class AlwaysFloat32(KL):
    def forward(self, student, teacher, batch):
        return super().forward(student._replace(logits=student.logits.float()), teacher._replace(logits=teacher.logits.float()), batch)


class ClassSums(_Vectors):
    """What the student lacks, summed over each class."""

    batch_coupled, needs_labels, takes_soft_labels = True, True, False

    def setup(self, student, teacher):
        super().setup(student, teacher)
        self.num_classes = student.num_classes

    def forward(self, student, teacher, batch):
        ours, theirs = upcast(self.projector(student.features["pooled"])), upcast(teacher.features["pooled"])
        return self.sums(ours - theirs, batch).square().mean()

    def sums(self, lacking: Tensor, batch) -> Tensor:
        sums = torch.zeros(self.num_classes, lacking.shape[1], dtype=lacking.dtype, device=lacking.device)
        return sums.index_add(0, batch.labels, lacking) / len(lacking)


class ClassSumsByProduct(ClassSums):
    """Autocast makes the product bfloat16, and index_add takes no mixture."""

    def sums(self, lacking: Tensor, batch) -> Tensor:
        sums = torch.zeros(self.num_classes, lacking.shape[1], dtype=lacking.dtype, device=lacking.device)
        identity = torch.eye(lacking.shape[1], dtype=lacking.dtype, device=lacking.device)
        return sums.index_add(0, batch.labels, lacking @ identity) / len(lacking)


# What a loss says that it needs: labels, sample ids


class MaskedUndeclared(Masked):
    """Where a loop gives no ids, every picture gets the same mask in every step."""

    needs_sample_ids = False


class HintThatSaysIds(Hint):
    """Says that it needs ids, and refuses a loop that has none for nothing."""

    needs_sample_ids = True


class LabelledUndeclared(Labelled):
    """With labels of -1 from training pictures that have none it fails in the middle of the first step."""

    needs_labels = False


class MaskedByLabels(Labelled):
    """Labels of -1 are left out, as cross-entropy does it: a value without a word, for pictures that say nothing."""

    def shares(self, labels: Tensor, logits: Tensor) -> Tensor:
        return label_shares(labels.clamp(min=0), logits) * ((labels >= 0)[:, None] if labels.ndim == 1 else 1)


class MaskedByLabelsUndeclared(MaskedByLabels):
    needs_labels = False


class Balanced(KL):
    """Classes that are rare among the training pictures count for more."""

    needs_labels = True

    def setup(self, student, teacher):
        super().setup(student, teacher)
        counts = F.one_hot(self.data.labels.clamp(min=0), student.num_classes).sum(dim=0)
        self.register_buffer("weights", 1 / (1 + counts), persistent=False)

    def forward(self, student, teacher, batch):
        ours, theirs = F.log_softmax(student.logits, dim=1), F.log_softmax(teacher.logits, dim=1)
        return (self.weights.to(ours.dtype) * theirs.exp() * (theirs - ours)).sum(dim=1).mean()


class BalancedUndeclared(Balanced):
    needs_labels = False


class ClassCentred(Centred):
    """The teacher's vectors around the running mean of their class, which has nothing in the first step yet."""

    needs_labels, takes_soft_labels = True, False

    def setup(self, student, teacher):
        super().setup(student, teacher)
        self.register_buffer("centres", torch.zeros(student.num_classes, teacher.shapes["pooled"].channels))

    def forward(self, student, teacher, batch):
        ours, theirs = self.vectors(student, teacher)
        is_class = F.one_hot(batch.labels.clamp(min=0), len(self.centres)).to(theirs.dtype)
        value = (ours - (theirs - is_class @ self.centres.to(theirs.dtype))).square().mean()
        if self.training:
            self.centres.lerp_((is_class.T @ theirs / len(theirs)).to(self.centres.dtype), 0.1)
        return value


class ClassCentredUndeclared(ClassCentred):
    needs_labels = False


class PushedAtTheLabel(KL):
    """The labels are in the gradient alone."""

    needs_labels, takes_soft_labels = True, False

    def forward(self, student, teacher, batch):
        labelled = student.logits.gather(1, batch.labels.clamp(min=0)[:, None])
        return super().forward(student, teacher, batch) - 0.1 * (labelled - labelled.detach()).mean()


class PushedUndeclared(PushedAtTheLabel):
    needs_labels = False


class LabelsForNothing(KL):
    """Refused without a reason where there are no labels."""

    needs_labels = True


# and all of the teacher's logits


class KLOfTheLargest(KL):
    """What has next to no share at its temperature counts for next to nothing."""

    temperature, needs_all_logits = 4.0, False

    def forward(self, student, teacher, batch):
        ours, theirs = (each._replace(logits=each.logits / self.temperature) for each in (student, teacher))
        return super().forward(ours, theirs, batch) * self.temperature**2


class SoftenedTwice(KLOfTheLargest):
    """It softens more than it says, and what has next to no share at its temperature has one."""

    def forward(self, student, teacher, batch):
        ours, theirs = (each._replace(logits=each.logits / self.temperature) for each in (student, teacher))
        return super().forward(ours, theirs, batch) * self.temperature**2


class CorrelationOfTheLargest(Correlation):
    """Every logit counts as much as any other."""

    needs_all_logits = False


class ClassesOverSamples(_Logits):
    """How a class's probability changes from sample to sample, as in DIST: whether it is large or small."""

    batch_coupled = True

    def forward(self, student, teacher, batch):
        ours, theirs = (F.softmax(each.logits, dim=1) - F.softmax(each.logits, dim=1).mean(dim=0) for each in (student, teacher))
        return 1 - F.cosine_similarity(ours, theirs, dim=0, eps=1e-6).mean()


class ClassesOfTheLargest(ClassesOverSamples):
    needs_all_logits = False


# Arguments and networks


class Sharpened(_Logits):
    def __init__(self, sharpness: float = 0.5):
        super().__init__()
        self.sharpness = sharpness

    def forward(self, student, teacher, batch):
        ours, theirs = (F.log_softmax(each.logits * 2**self.sharpness, dim=1) for each in (student, teacher))
        return F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


class SharpenedByMath(Sharpened):
    def forward(self, student, teacher, batch):
        factor = math.exp(self.sharpness)
        return F.kl_div(*(F.log_softmax(each.logits * factor, dim=1) for each in (student, teacher)), reduction="batchmean", log_target=True)


class SharpenedOnce(Sharpened):
    """What is computed in __init__ follows no schedule."""

    def __init__(self, sharpness: float = 0.5):
        super().__init__(sharpness)
        self.factor = 2**sharpness

    def forward(self, student, teacher, batch):
        return F.kl_div(*(F.log_softmax(each.logits * self.factor, dim=1) for each in (student, teacher)), reduction="batchmean", log_target=True)


class AnyClasses(KL):
    """mismatched classes are found in the middle of the first step."""

    def setup(self, student, teacher):
        pass


class Broadcasts(Attention):
    """A map of one place is compared with each place of the other."""

    def setup(self, student, teacher):
        pass

    def forward(self, student, teacher, batch):
        ours, theirs = (self.squares(each.features["layer3"]) for each in (student, teacher))
        return F.mse_loss(F.adaptive_avg_pool2d(ours, 3), theirs)


class WithoutBatchNorm(Hint):
    """Fails without a word of help where there is no batch norm."""

    def setup(self, student, teacher):
        super().setup(student, teacher)
        self.register_buffer("margin", teacher.norms["layer3"].bias[:, None, None], persistent=False)

    def forward(self, student, teacher, batch):
        ours, theirs = self.maps(student, teacher)
        return (ours - torch.maximum(theirs, self.margin)).square().mean()


class Smoothed(DistillLoss):
    needs_teacher, needs_labels = False, True

    def forward(self, student, teacher, batch):
        return F.cross_entropy(student.logits, batch.labels) - 0.1 * F.log_softmax(student.logits, dim=1).mean()


class NoTeacherAllowed(Smoothed):
    """Works alone, and not beside a loss that has a teacher."""

    def forward(self, student, teacher, batch):
        assert teacher is None, "no teacher is needed"
        return super().forward(student, teacher, batch)


class OneSampleRefused(Similarity):
    """Nothing is wrong with it: it says what it needs."""

    least, says = 2, "this loss compares samples: it needs a batch of 2 or more"

    def forward(self, student, teacher, batch):
        if len(student.logits) < self.least:
            raise RecipeError(self.says)
        return super().forward(student, teacher, batch)


class TwoSamplesRefused(OneSampleRefused):
    least = 3


class RefusedWithoutAWord(OneSampleRefused):
    says = ""


class CountsBytesInHalves(KL):
    def extra_bytes(self, batch_size):
        return batch_size / 2


class SaysOtherwise(KL):
    """A check that asks the class before a loss is made is told something else."""

    def __init__(self):
        super().__init__()
        self.needs_all_logits = False


class ForgetsTheBase(KL):
    def __init__(self):
        self.bank = nn.Linear(2, 2)


class AsksForNothing(Hint):
    def __init__(self):
        DistillLoss.__init__(self)

    def setup(self, student, teacher):
        self.projector = nn.Conv2d(8, 12, kernel_size=1)


class Pair(NamedTuple):
    fault: str
    broken: type[DistillLoss]
    mended: type[DistillLoss]
    also: tuple[str, ...] = ()  # what the same defect does besides


PAIRS = [
    Pair("mean", SumOverTheBatch, KL),
    Pair("warnings", MeanOverClassesToo, KL),
    Pair("mean", DropsTheBatchAxis, KL),
    Pair("small batches", SqueezesTheBatchAxis, Cosine),
    Pair("forward", NoScalar, Cosine),
    Pair("coupling", SimilarityUndeclared, Similarity, also=("mean",)),
    Pair("forward", CountsPictures, Similarity),
    Pair("order", Neighbours, Similarity),
    Pair("small batches", TwoSamplesRefused, OneSampleRefused),
    Pair("small batches", RefusedWithoutAWord, OneSampleRefused),
    Pair("equal samples", DistancesWithoutEpsilon, Distances, also=("dead features",)),
    Pair("hidden parameters", VariancesInAList, Variances, also=("device",)),
    Pair("own parameters", VariancesDetached, Variances),
    Pair("hidden parameters", FactorInAFunction, Scaled),
    Pair("hidden parameters", TermsInADict, Terms, also=("state dict", "float64", "gradcheck", "device")),
    Pair("own parameters", UnusedProjector, Hint),
    Pair("student gradient", DetachedStudent, Hint),
    Pair("student gradient", OneLayerDetached, TwoLayers),
    Pair("gradcheck", WrongBackward, FocalWeight),
    Pair("extreme logits", LogOfASum, TargetShare),
    Pair("half precision", SquaresInHalf, Attention),
    Pair("channels last", ViewsMaps, Attention),
    Pair("dead features", NotNormalisedSafely, Attention),
    Pair("half precision", MasksWithABillion, SpatialShares),
    Pair("half precision", ValueInHalf, Hint),
    Pair("hidden nan", ReplacesNan, KL),
    Pair("identity", WrongSign, Correlation),
    Pair("identity", DrivesAway, KL),
    Pair("soft labels", LargestShare, Labelled),
    Pair("soft labels", HardOnlyUndeclared, HardOnly),
    Pair("labels", LabelledUndeclared, Labelled),
    Pair("labels", MaskedByLabelsUndeclared, MaskedByLabels),
    Pair("sample ids", MaskedUndeclared, Masked),
    Pair("sample ids", HintThatSaysIds, Hint),
    Pair("labels", BalancedUndeclared, Balanced),
    Pair("labels", ClassCentredUndeclared, ClassCentred),
    Pair("labels", PushedUndeclared, PushedAtTheLabel),
    Pair("labels", LabelsForNothing, KL),
    Pair("all logits", SoftenedTwice, KLOfTheLargest),
    Pair("all logits", CorrelationOfTheLargest, Correlation),
    Pair("all logits", ClassesOfTheLargest, ClassesOverSamples),
    Pair("data dependence", BooleanIndex, OthersOnly),
    Pair("data dependence", LooksAtAValue, KL),
    Pair("compile", Branches, KL, also=("data dependence",)),
    Pair("kept", KeepsTheValue, KL),
    Pair("kept", KeepsInAList, KL),
    Pair("kept", Counts, KL),
    Pair("kept", Queue, Centred),
    Pair("state dict", ForgetsItsCentre, Centred),
    Pair("eval mode", UpdatesInEval, Centred),
    Pair("inputs", WritesIntoTheTeacher, KL),
    Pair("inputs", WritesIntoTheStudent, Hint),
    Pair("inputs", TeacherWithGradient, KL, also=("compile",)),
    Pair("inputs", TakesFeaturesAway, Hint),
    Pair("randomness", MaskedGlobally, Masked, also=("mean", "order", "coupling")),
    Pair("randomness", RandomTemperature, KL),
    Pair("randomness", OwnGenerator, Hint, also=("state dict", "compile")),
    Pair("initial values", DirectionsFromNumpy, FixedDirections),
    Pair("state dict", DirectionsNotKept, FixedDirections),
    Pair("device", PlainTensor, FixedDirections),
    Pair("device", NewTensorOnTheCpu, FixedDirections),
    Pair("grad mode", LeavesGradientsOn, KL),
    Pair("float64", AlwaysFloat32, KL),
    Pair("autocast", ClassSumsByProduct, ClassSums),
    Pair("schedule", SharpenedByMath, Sharpened),
    Pair("schedule", SharpenedOnce, Sharpened),
    Pair("other networks", AnyClasses, KL),
    Pair("other networks", Broadcasts, Attention),
    Pair("other networks", WithoutBatchNorm, Hint),
    Pair("declarations", CountsBytesInHalves, KL),
    Pair("declarations", NoTeacherAllowed, Smoothed),
    Pair("declarations", SaysOtherwise, KL),
    Pair("construction", ForgetsTheBase, KL),
    Pair("forward", AsksForNothing, Hint),
]
