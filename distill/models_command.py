"""`distill models`: which networks there are, and what one of them is made of."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from distill.errors import DistillError, RecipeError
from distill.models.cifar_resnet import CIFAR_RESNETS
from distill.models.hooks import FeatureHooks
from distill.models.published import Published, published_weights
from distill.models.stages import find_stages
from distill.models.zoo import create_model, head_path, model_exists, model_names
from distill.resolve import Catalogue
from distill.suggestion import did_you_mean

_NUM_CLASSES, _SIZE = 1000, 224  # pixels
_CIFAR_CLASSES, _CIFAR_SIZE = 100, 32  # what their papers count parameters with


@dataclass(frozen=True)
class Stage:
    """A part of a network whose output a loss may ask for."""

    feature: str  # as in a loss's `layers`
    module: str  # path; as in teacher.features or student.features
    shape: tuple[int, ...]  # for one picture


def list_models(pattern: str | None, catalogue: Catalogue, *, as_json: bool = False) -> None:
    """Prints the names that match: * and ? stand for anything, a pattern without them for any part of a name. Without one, our own, and how many
    others there are. Raises RecipeError if nothing matches."""
    families = model_names() | ({"plug-ins": sorted(catalogue.models)} if catalogue.models else {})
    if pattern is None and not as_json:
        return _print_overview(families)
    names = [name for found in families.values() for name in found]
    chosen = names if pattern is None else _matching(pattern, names)
    if not chosen:
        raise RecipeError(f"no model is called {pattern}{did_you_mean(pattern or '', names)}; distill models list says which there are")
    print(json.dumps(chosen, indent=2) if as_json else "\n".join(chosen))
    return None


def show_model(name: str, catalogue: Catalogue, *, image_size: int | None = None, as_json: bool = False) -> None:
    """Prints a network's parameters, work, stages and known weights. image_size: pixels; None for the size that it was published with or
    is made for.

    Raises RecipeError for an unknown name, or pictures that it can't take.
    """
    if problem := model_exists(name, catalogue.models):
        raise RecipeError(problem)
    weights = published_weights(name)
    num_classes, usual_size = (_CIFAR_CLASSES, _CIFAR_SIZE) if name in CIFAR_RESNETS else (_NUM_CLASSES, _SIZE)
    size = image_size or next((one.image_size for one in weights), usual_size)
    with torch.random.fork_rng(devices=[]):
        model = create_model(name, num_classes=num_classes, plugins=catalogue.models).eval()
    gmacs, stages = _run(model, name, size)
    found = {
        "name": name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "gmacs": gmacs,
        "image_size": size,
        "num_classes": num_classes,
        "classifier": head_path(model),
        "stages": [asdict(stage) for stage in stages],
        "weights": [asdict(one) for one in weights],
    }
    print(json.dumps(found, indent=2)) if as_json else _print_model(found, stages, weights)


def _matching(pattern: str, names: Sequence[str]) -> list[str]:
    wanted = pattern if any(letter in pattern for letter in "*?[") else f"*{pattern}*"
    return [name for name in names if fnmatch.fnmatchcase(name.lower(), wanted.lower())]


def _run(model: nn.Module, name: str, size: int) -> tuple[float, list[Stage]]:
    """(1e9 multiply-accumulates for one picture, the stages)"""
    paths = find_stages(model)
    try:
        gmacs, features = _forward(model, paths, size)
    except (RuntimeError, AssertionError, ValueError) as error:  # each network has its own way to refuse a size
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise RecipeError(f"model {name!r} can't take pictures of {size} px: {reason}") from error
    except DistillError:  # its stages give lists
        gmacs, features = _forward(model, (), size)
    return gmacs, [Stage(feature, paths[feature], tuple(tensor.shape[1:])) for feature, tensor in features.items()]


def _forward(model: nn.Module, names: Iterable[str], size: int) -> tuple[float, dict[str, Tensor]]:
    with FeatureHooks(model, names) as hooks, torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, size, size))
        return counter.get_total_flops() / 2e9, hooks.pop()


def _print_overview(families: dict[str, list[str]]) -> None:
    print("ours, with torchvision's and timm's weights:")
    print("\n".join(f"  {name}" for name in families["distill"]))
    print("ours, with three stages for pictures of 32 px, such as CIFAR's; nobody's weights:")
    print("\n".join(f"  {name}" for name in families["cifar"]))
    for name in families.get("plug-ins", ()):
        print(f"  {name} (plug-in)")
    for family, names in families.items():
        if family in ("torchvision", "timm"):
            print(f"and {len(names):,} of {family}: distill models list '{family}/*', or any part of a name")
    print("and what timm has saved: hf-hub:ORGANISATION/NAME on the Hugging Face hub, local-dir:FOLDER here")
    print("distill models show NAME   parameters, work, stages, weights")


def _print_model(found: dict[str, Any], stages: Sequence[Stage], weights: Sequence[Published]) -> None:
    size = found["image_size"]
    parameters = f"{found['parameters'] / 1e6:,.2f} M parameters with {found['num_classes']:,} classes"
    print(f"{found['name']}: {parameters}; {found['gmacs']:,.2f} GMACs at {size} px")
    print(f"classifier: {found['classifier'] or 'no linear layer'}\n")
    if stages:
        rows = [(stage.feature, stage.module, " x ".join(map(str, stage.shape))) for stage in stages]
        _print_columns(("feature", "module", f"shape ({size} px)"), rows)
    else:
        print("stages: it names none; a loss can ask for any module by its path, such as layers=[features.5]")
    if not weights:
        return print("\nweights: none that are known here")
    weight_rows = [(one.source, f"{one.num_classes or '-'}", f"{one.image_size} px", _percent(one.top1), one.license or "-") for one in weights]
    print()
    _print_columns(("weights", "classes", "pictures", "ImageNet top-1", "licence"), weight_rows)
    print("\nweights as teacher.weights takes them; top-1 and licence as their library publishes them (-: it does not), nothing of it measured here")
    return None


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}%"


def _print_columns(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    for row in (titles, *rows):
        print("  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip())
