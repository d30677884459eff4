"""make_distiller: from networks that somebody has built to a Distiller for a training loop of their own; no recipe."""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distill.build.arguments import construct
from distill.build.losses import set_up
from distill.build.measuring import measure, require_layers
from distill.engine.network import Network
from distill.engine.own_loop import LoopDistiller
from distill.engine.teacher import Teacher
from distill.errors import RecipeError
from distill.losses.base import DistillLoss
from distill.resolve import Catalogue
from distill.structures import DataInfo, ModelInfo


def make_distiller(
    student: nn.Module,
    teacher: nn.Module | None,
    losses: Mapping[str, float | DistillLoss | tuple[float, DistillLoss]],
    *,
    image_size: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    teacher_mean: Sequence[float] | None = None,
    teacher_std: Sequence[float] | None = None,
    student_features: Mapping[str, str] | None = None,
    teacher_features: Mapping[str, str] | None = None,
    train_labels: Sequence[int] | Tensor | None = None,
    seed: int = 0,
) -> LoopDistiller:
    """One module with student and losses, for a loop of your own: `distiller(images, labels).loss.backward()`.

    student, teacher: built networks, images [N, 3, H, W] -> logits [N, K]. The student is trained where it is; the teacher is frozen, and may be None
    where no loss needs one. losses: label -> (weight, loss), a loss (weight 1), or a weight for the shipped loss of that name with its defaults.
    image_size: pixels a side of what they will be shown. mean, std: [3], where your loader gives uint8; without them it gives normalised floats.
    teacher_mean, teacher_std: where the teacher was trained with others. student_features, teacher_features: {"layer3": "stages.2"}, the module that
    stands for a layer in a network that names its stages otherwise. train_labels: [M] classes of all training pictures, for losses that remember each
    of them (crd); sample_ids are then places in it. seed: decides the initial weights of projectors.

    The distiller is on the student's device. Raises RecipeError that names the loss or the argument, and what would do.
    """
    _require_networks(student, teacher)
    _require_pictures(image_size, mean, std, teacher_mean, teacher_std)
    made, weights = _read_losses(losses, has_teacher=teacher is not None)
    networks: dict[str, Network] = {}
    infos: dict[str, ModelInfo] = {}
    normalisations = {"student": (mean, std), "teacher": (mean, std) if teacher_mean is None else (teacher_mean, teacher_std)}
    given = {"student": (student, student_features), "teacher": (teacher, teacher_features)}
    with contextlib.ExitStack() as hooks:
        for role, (model, features) in given.items():
            if model is not None:
                networks[role] = _network(role, model, made, features or {}, normalisations[role])
                hooks.callback(networks[role].hooks.remove)
                infos[role] = _measured(role, networks[role], image_size)
        set_up(made, infos["student"], infos.get("teacher"), _training_data(train_labels), seed)
        distiller = _assembled(networks["student"], networks.get("teacher"), made, weights, image_size)
        # a notebook's cell is run again and again on the same networks: the hooks go with the distiller that they are for
        weakref.finalize(distiller, hooks.pop_all().close).atexit = False
    return distiller


def _network(
    role: str, model: nn.Module, losses: Mapping[str, DistillLoss], features: Mapping[str, str], normalisation: Sequence[Sequence[float] | None]
) -> Network:
    require_layers(model, losses, features, f"{role} {type(model).__name__}")
    layers, (mean, std) = sorted({layer for loss in losses.values() for layer in loss.layers}), normalisation
    weight = next(parameter for parameter in model.parameters() if parameter.is_floating_point())
    return Network(model, mean=mean, std=std, layers=layers, aliases=features, channels_last=False).to(weight.device, weight.dtype)


def _measured(role: str, network: Network, image_size: int) -> ModelInfo:
    try:
        return measure(network, type(network.model).__name__, image_size)
    except RecipeError as error:
        raise RecipeError(f"{role}: {error}") from error


def _assembled(
    student: Network, teacher: Network | None, losses: Mapping[str, DistillLoss], weights: Mapping[str, float], image_size: int
) -> LoopDistiller:
    asked = None if teacher is None else Teacher(teacher)
    distiller = LoopDistiller(student, asked, losses, weights, image_size=image_size).to(student.mean.device, student.mean.dtype)
    if teacher is not None and not student.takes_normalised:
        teacher.hand_pixels_to(student)
    return distiller


def _read_losses(given: Mapping[str, Any], *, has_teacher: bool) -> tuple[dict[str, DistillLoss], dict[str, float]]:
    """(label -> loss, label -> weight)."""
    if not isinstance(given, Mapping) or not given:
        raise RecipeError('losses must be a mapping with at least one loss, such as {"ce": 1.0, "kd": (1.0, KD(temperature=4))}')
    losses: dict[str, DistillLoss] = {}
    weights: dict[str, float] = {}
    labels: dict[DistillLoss, str] = {}
    for label, entry in given.items():
        if not isinstance(label, str) or not label.isidentifier():
            raise RecipeError(f"losses: a label must be letters, digits and _, and not begin with a digit, got {label!r}")
        weight, loss = entry if isinstance(entry, tuple) and len(entry) == 2 else (1.0, entry)
        if isinstance(loss, int | float) and not isinstance(entry, tuple):
            weight, loss = entry, _shipped(label)
        if isinstance(loss, type) and issubclass(loss, DistillLoss):
            raise RecipeError(f"losses.{label}: {loss.__name__} is a class; make one of it, {loss.__name__}()")
        if not isinstance(loss, DistillLoss):
            raise RecipeError(f"losses.{label} must be a weight, a DistillLoss or (weight, DistillLoss), got {_kind(entry)}")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight) or weight < 0:
            raise RecipeError(f"losses.{label}: its weight must be a finite number, 0 or more, got {weight!r}")
        if loss.needs_teacher and not has_teacher:
            raise RecipeError(f"losses.{label}: {type(loss).__name__} needs a teacher, and none is given")
        if loss in labels:
            raise RecipeError(f"losses.{label} is the same object as losses.{labels[loss]}; make two, each has parameters of its own")
        losses[label], weights[label], labels[loss] = loss, float(weight), label
    return losses, weights


def _shipped(label: str) -> DistillLoss:
    loss, wrong = construct(Catalogue().get("losses", label), {})
    if wrong:
        raise RecipeError("; ".join(f"losses.{label}: {argument} {message}" for argument, message in wrong))
    return loss


def _require_networks(student: nn.Module, teacher: nn.Module | None) -> None:
    for role, model in (("student", student), ("teacher", teacher)):
        if model is None and role == "teacher":
            continue
        if not isinstance(model, nn.Module):
            raise RecipeError(
                f'{role} must be a built network, a torch.nn.Module, got {_kind(model)}; create_model("resnet18", num_classes=10) builds one'
            )
        dtypes = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
        if len(dtypes) != 1 or not dtypes <= {torch.float32, torch.float64}:
            found = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes)) or "none"
            raise RecipeError(
                f"{role}: its weights must be float32 (or all float64), got {found}; for half precision call the distiller under autocast"
            )
    if not any(parameter.requires_grad for parameter in student.parameters()):
        raise RecipeError("student: none of its parameters requires a gradient, so there is nothing to train")
    if teacher is not None and not set(student.parameters()).isdisjoint(teacher.parameters()):
        raise RecipeError("student and teacher share parameters, and the teacher's are frozen: give it a copy, copy.deepcopy(student)")


def _require_pictures(image_size: Any, mean: Any, std: Any, teacher_mean: Any, teacher_std: Any) -> None:
    if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 1:
        raise RecipeError(f"image_size must be a whole number of pixels, got {image_size!r}")
    for names, pair in ((("mean", "std"), (mean, std)), (("teacher_mean", "teacher_std"), (teacher_mean, teacher_std))):
        if (pair[0] is None) is not (pair[1] is None):
            raise RecipeError(f"{names[0]} and {names[1]} come together: give both, or neither where pictures come normalised")
        for name, values in zip(names, pair, strict=True):
            if values is not None and (len(values) != 3 or (name.endswith("std") and not min(values) > 0)):
                raise RecipeError(f"{name} must be three numbers{' above 0' * name.endswith('std')}, of pictures in [0, 1], got {values!r}")
    if teacher_mean is not None and mean is None:
        raise RecipeError("teacher_mean is for uint8 pictures, which each network normalises as it needs: give mean and std too")


def _training_data(labels: Sequence[int] | Tensor | None) -> DataInfo | None:
    if labels is None:
        return None
    labels = torch.as_tensor(labels).cpu()
    if labels.ndim != 1 or labels.is_floating_point() or not len(labels) or labels.min() < 0:
        raise RecipeError(f"train_labels must be [M] classes, whole numbers from 0 on, got {list(labels.shape)} {labels.dtype}")
    return DataInfo(torch.arange(len(labels)), labels.long())


def _kind(value: object) -> str:
    return repr(value) if isinstance(value, str | int | float) else f"a {type(value).__name__}"
