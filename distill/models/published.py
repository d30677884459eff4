"""Which weights others have published for a network, under the names that a recipe gives to `weights`, and what they say of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from distill.models.resnet import RESNETS
from distill.models.saved import is_saved, read_config


@dataclass(frozen=True)
class Published:
    """One file of weights. Nothing of it was measured here."""

    source: str  # as in teacher.weights or student.weights
    num_classes: int  # 0 where it holds features alone
    image_size: int  # pixels a side, of the pictures that it was published with
    top1: float | None  # per cent of ImageNet-1K's validation pictures; None where the library does not carry the figure
    license: str | None  # None where the library does not say


def published_weights(name: str) -> list[Published]:
    """All for a network that create_model knows by this name, with torchvision's first; nothing is downloaded but the config.json of
    one on the hub."""
    if is_saved(name):
        config = read_config(name)
        pretrained = config["pretrained_cfg"]
        num_classes = config.get("num_classes", pretrained.get("num_classes", 0))
        return [Published(name, num_classes, (pretrained.get("input_size") or (3, 224, 224))[-1], None, pretrained.get("license"))]
    family, _, plain = name.rpartition("/")
    found: list[Published] = []
    if family == "torchvision" or (plain in RESNETS and not family):
        found += _of_torchvision(plain)
    if family == "timm" or (plain in RESNETS and not family):  # our ResNets have timm's keys too
        found += _of_timm(plain)
    return found


def _of_torchvision(plain: str) -> Iterator[Published]:
    from torchvision.models import get_model_weights

    for weights in get_model_weights(plain):
        num_classes, size = len(weights.meta["categories"] or ()), weights.transforms().crop_size[0]
        top1 = weights.meta["_metrics"]["ImageNet-1K"]["acc@1"] if num_classes else None
        yield Published(f"torchvision:{weights.name}", num_classes, size, top1, None)


def _of_timm(plain: str) -> Iterator[Published]:
    import timm  # takes seconds

    architecture, _, tag = plain.partition(".")
    for name in timm.list_pretrained(plain if tag else f"{architecture}.*"):
        config = timm.get_pretrained_cfg(name)
        yield Published(f"timm:{name}", config.num_classes, config.input_size[-1], None, config.license)
