"""A teacher that knows other classes than the data: which of its answers are which of the data's classes, by name, and the classifier cut to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from distill.errors import RecipeError
from distill.models.about_weights import Names
from distill.models.modes import in_eval_mode
from distill.models.zoo import find_head
from distill.suggestion import did_you_mean

_MOST_SHOWN = 5


def match_classes(wanted: Sequence[str], known: Names, renamed: Mapping[str, str]) -> list[int] | None:
    """For each class of the data its place in the teacher's answers; None if they are the teacher's own, in order.

    renamed: what the teacher calls a class of the data. Names are compared without regard to case, and to _ or - for a space. Raises RecipeError if
    a class is not known, or stands for several answers, or two for one.
    """
    places: dict[str, set[int]] = {}
    for place, names in enumerate(known):
        for name in names:
            places.setdefault(_plain(name), set()).add(place)
    if unknown := sorted(renamed.keys() - set(wanted)):
        raise RecipeError(f"teacher.class_map: the data has no class {unknown[0]!r}{did_you_mean(unknown[0], wanted)}")
    found = {name: sorted(places.get(_plain(renamed.get(name, name)), ())) for name in wanted}
    _refuse(found, known, renamed, places)
    columns = [found[name][0] for name in wanted]
    return None if columns == list(range(len(known))) else columns


def _refuse(found: Mapping[str, Sequence[int]], known: Names, renamed: Mapping[str, str], places: Mapping[str, set[int]]) -> None:
    missing = [name for name, ones in found.items() if not ones]
    if missing:
        looked_for = _plain(renamed.get(missing[0], missing[0]))
        raise RecipeError(
            f"teacher: of the data's {len(found)} classes it does not know {len(missing)}: {_some(missing)}{did_you_mean(looked_for, places)}; "
            f"its {len(known):,} are {_some([names[0] for names in known])}. teacher.class_map: {{{missing[0]}: NAME}} says what it calls a class, "
            "teacher.classes: data that its answers are in the data's order, teacher.num_classes that it teaches by its features alone"
        )
    if ambiguous := [name for name, ones in found.items() if len(ones) > 1]:
        ones = " or ".join(known[place][0] for place in found[ambiguous[0]])
        raise RecipeError(f"teacher: class {ambiguous[0]!r} is one of several that it knows, {ones}: say which with teacher.class_map")
    by_place: dict[int, str] = {}
    for name, (place,) in found.items():
        if (other := by_place.setdefault(place, name)) != name:
            raise RecipeError(f"teacher: the data's classes {other!r} and {name!r} are one class for it, {known[place][0]!r}: give them one name")


def keep_classes(model: nn.Module, columns: Sequence[int], image_size: int) -> None:
    """Cuts the classifier to these of its answers, in this order. Tried on two random pictures of so many pixels a side.

    Raises RecipeError for a network whose answers are not those of a linear layer, or the mean of several.
    """
    heads = _heads(model)
    num_answers = min(head.out_features for head in heads.values())
    if max(columns) >= num_answers:
        raise RecipeError(f"teacher: its classifier gives {num_answers} answers, and {max(columns) + 1} classes are named")
    before = _answers(model, image_size)[:, list(columns)]
    for path, head in heads.items():
        model.set_submodule(path, _cut(head, list(columns)))
    after = _answers(model, image_size)
    if after.shape != before.shape or not torch.allclose(after, before, rtol=1e-3, atol=1e-4 * (1 + before.abs().max().item())):
        raise RecipeError(
            f"teacher: {type(model).__name__}'s answers do not come from its layer {', '.join(heads)} alone, so they can't be cut to the data's "
            "classes: take another teacher, or one that was trained on these classes"
        )


def _heads(model: nn.Module) -> dict[str, nn.Linear]:
    """The classifier by its path; of a network with one for its class token and one for another token, such as DeiT, all of them."""
    get_classifier = getattr(model, "get_classifier", None)
    found = get_classifier() if callable(get_classifier) else None
    if isinstance(found, tuple) and all(isinstance(one, nn.Linear) for one in found):
        return {path: module for path, module in model.named_modules() if module in found}
    return dict([find_head(model)])


def _cut(head: nn.Linear, columns: list[int]) -> nn.Linear:
    cut = nn.utils.skip_init(
        nn.Linear, head.in_features, len(columns), bias=head.bias is not None, device=head.weight.device, dtype=head.weight.dtype
    )
    with torch.no_grad():
        cut.weight.copy_(head.weight[columns])
        if head.bias is not None:
            cut.bias.copy_(head.bias[columns])
    return cut.train(head.training)


def _answers(model: nn.Module, image_size: int) -> torch.Tensor:
    weight = next(parameter for parameter in model.parameters() if parameter.is_floating_point())
    pictures = torch.randn(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    with in_eval_mode(model), torch.no_grad():
        return model(pictures.to(weight.device, weight.dtype))


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_SHOWN]) + (f" and {len(names) - _MOST_SHOWN:,} more" if len(names) > _MOST_SHOWN else "")
