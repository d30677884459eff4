"""A network of a recipe with its weights: by name, and a teacher of other classes cut to those of the data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distill.errors import RecipeError
from distill.models.about_weights import IMAGENET, Names, about_weights, imagenet_names
from distill.models.classes import keep_classes, match_classes
from distill.models.weights import WeightsReport, load_weights
from distill.models.zoo import create_model
from distill.recipe import Network, Student, Teacher
from distill.resolve import Catalogue

_AS_DATA = "data"  # teacher.classes: the answers are in the order of the data's classes
_UNTRAINED = ("train", "random")


def make_model(
    entry: Network, role: str, classes: Sequence[str], catalogue: Catalogue, *, image_size: int, seed: int, weights: str | None
) -> tuple[nn.Module, WeightsReport | None]:
    """(images [N, 3, H, W] -> logits [N, K], what was loaded). classes: the data's. image_size: pixels, of the data. weights: None for
    initial ones, which the seed alone decides.

    K is the number of the data's classes, but for a teacher with num_classes. Raises RecipeError or DataError.
    """
    names = class_names(entry) if isinstance(entry, Teacher) else None
    class_map = entry.class_map if isinstance(entry, Teacher) else {}
    columns = None if names is None or _have_no_names(classes, names) else match_classes(classes, names, class_map)
    num_classes = num_answers(entry, classes) if names is None else len(names)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        options: dict[str, Any] = {"norm": entry.norm, "stem": entry.stem, "arguments": entry.arguments, "plugins": catalogue.models}
        model = create_model(entry.model, num_classes=num_classes, **options)
    report = None
    if weights is not None:
        new_head = isinstance(entry, Student) and entry.new_head
        report = load_weights(model, entry.model, weights, num_classes=num_classes, new_head=new_head, role=role)
    if columns is not None:
        keep_classes(model, columns, getattr(entry, "image_size", None) or image_size)
        report = report and dataclasses.replace(report, num_classes_kept=len(columns))
    return model, report


def num_answers(entry: Network, classes: Sequence[str]) -> int:
    """How many logits the network gives for data of these classes."""
    return getattr(entry, "num_classes", None) or len(classes)


def class_names(teacher: Teacher) -> Names | None:
    """What the teacher's answers stand for; None where they are taken for the data's classes, in order, or nobody says."""
    if teacher.num_classes is not None or teacher.classes == _AS_DATA:
        return None
    if teacher.classes is not None:
        return _named(teacher.classes)
    return None if teacher.weights in _UNTRAINED else about_weights(teacher.weights, teacher.model).class_names


def _named(classes: str | Sequence[str]) -> Names:
    """The recipe's own list, a file's, or ImageNet's."""
    if not isinstance(classes, str):
        return tuple((name,) for name in classes)
    if classes == IMAGENET:
        return imagenet_names()
    try:
        lines = Path(classes).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"teacher.classes={classes}: a list of names, {IMAGENET}, {_AS_DATA}, or a file with a name a line ({error})") from error
    return tuple((line.strip(),) for line in lines if line.strip())


def _have_no_names(classes: Sequence[str], names: Names) -> bool:
    """The data's classes are numbers alone, as many as the teacher's: nothing can be matched, and the order is taken as it is."""
    return len(classes) == len(names) and all(name.isdigit() for name in classes)
