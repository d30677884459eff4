"""What weights say of themselves, without loading them: how their pictures were normalised, and which classes they know."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.errors import RecipeError
from distill.models.saved import is_saved, read_config
from distill.record import SUMMARY_FILE, WEIGHTS_FILE

IMAGENET = "imagenet-1k"  # as timm calls it, too
Names = tuple[tuple[str, ...], ...]  # for each answer of a network, in its order, all names of the class


@dataclass(frozen=True)
class About:
    """None where the weights do not say."""

    mean: tuple[float, ...] | None = None  # per channel, of pictures in [0, 1]
    std: tuple[float, ...] | None = None
    image_size: int | None = None  # pixels
    class_names: Names | None = None


def about_weights(source: str, model_name: str) -> About:
    """Of weights as a recipe names them. Downloads nothing but a hub's config.json. Raises RecipeError for published weights that do not exist."""
    library, _, tag = source.partition(":")
    if library == "torchvision":
        return _of_torchvision(tag, model_name)
    if library == "timm":
        return _of_timm(tag)
    if is_saved(source):
        return _of_config(read_config(source))
    return _of_run(Path(source).expanduser())


def imagenet_names() -> Names:
    """ImageNet-1K's classes: their WordNet ids, which are its folders' names, timm's names and torchvision's."""
    from timm.data import ImageNetInfo
    from torchvision.models import ResNet18_Weights

    info = ImageNetInfo(IMAGENET)
    return tuple(
        _unique(wordnet_id, text, *text.split(", "), category)
        for wordnet_id, text, category in zip(
            info.label_names(), map(info.index_to_description, range(1000)), ResNet18_Weights.DEFAULT.meta["categories"], strict=True
        )
    )


def _of_torchvision(tag: str, model_name: str) -> About:
    from torchvision.models import get_model_weights

    try:
        weights = get_model_weights(model_name.rpartition("/")[2])[tag.rpartition(".")[2]]
    except Exception as error:  # it has its own for a name that it does not know
        raise RecipeError(f"weights 'torchvision:{tag}' do not exist for {model_name} ({error})") from error
    view = weights.transforms()
    names = imagenet_names() if len(weights.meta["categories"] or ()) == 1000 else None
    return About(tuple(view.mean), tuple(view.std), view.crop_size[0], names)


def _of_timm(name: str) -> About:
    import timm

    try:
        config = timm.get_pretrained_cfg(name)
    except Exception as error:  # as above
        raise RecipeError(f"weights 'timm:{name}' do not exist ({error})") from error
    if config is None:
        raise RecipeError(f"weights 'timm:{name}' do not exist")
    return _of_config({"pretrained_cfg": config.to_dict()})


def _of_config(config: dict[str, Any]) -> About:
    """Of timm's config.json."""
    pretrained = config["pretrained_cfg"]
    num_classes = config.get("num_classes", pretrained.get("num_classes"))
    names = config.get("label_names") or pretrained.get("label_names")
    size = (pretrained.get("input_size") or (None,))[-1]
    mean, std = (tuple(pretrained[key]) if pretrained.get(key) else None for key in ("mean", "std"))
    return About(mean, std, size, _labelled(names, config.get("label_descriptions"), num_classes) or _if_imagenet(num_classes))


def _labelled(names: Any, descriptions: Any, num_classes: int | None) -> Names | None:
    names = list(names.values()) if isinstance(names, dict) else names
    if not isinstance(names, Sequence) or len(names) != num_classes:
        return None
    texts = descriptions if isinstance(descriptions, dict) else {}
    return tuple(_unique(str(name), *([str(texts[name])] if name in texts else [])) for name in names)


def _if_imagenet(num_classes: int | None) -> Names | None:
    """timm names no classes for most of its weights; those with 1,000 are ImageNet-1K's."""
    return imagenet_names() if num_classes == 1000 else None


def _of_run(path: Path) -> About:
    """Of a run's folder, or the student in it; any other file says nothing."""
    folder = path.parent if path.name == WEIGHTS_FILE else path
    try:
        summary = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))
        return About(class_names=tuple((str(name),) for name in summary["data"]["class_names"]))
    except (OSError, ValueError, KeyError, TypeError):
        return About()


def _unique(*names: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
