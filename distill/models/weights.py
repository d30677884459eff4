"""Loading weights into a network: all of them, or an error that names every tensor that does not fit."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distill.errors import DataError, RecipeError
from distill.models.weight_files import save_weights, tensors_sha256
from distill.models.weight_sources import read_source
from distill.models.zoo import OWN, find_head

__all__ = ["WeightsReport", "checksum", "load_weights", "save_weights"]

# What wrappers put before a name: DataParallel, torch.compile, our Distiller, and attribute names usual in other tools.
_PREFIXES = ("module.", "_orig_mod.", "student.", "backbone.", "model.", "encoder.")

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # of the others, each needs to be told what its numbers stand for


@dataclass(frozen=True)
class WeightsReport:
    """What was loaded, for the run's record."""

    source: str
    sha256: str  # of the file, or of the tensors where a library hands them over
    mean: tuple[float, ...] | None  # normalisation that the weights expect; None: the file does not say
    std: tuple[float, ...] | None
    image_size: int | None  # pixels
    new_head: bool  # the classifier kept its fresh initialisation
    num_classes_kept: int | None = None  # to so many classes the classifier was cut afterwards; None: it is as it was loaded


@dataclass(frozen=True)
class _Misfit:
    """Names on which a file and a network disagree."""

    missing: list[str]
    unexpected: list[str]
    misshapen: list[str]

    @property
    def names(self) -> set[str]:
        return {*self.missing, *self.unexpected, *self.misshapen}


def load_weights(model: nn.Module, model_name: str, source: str, *, num_classes: int, new_head: bool = False, role: str = "teacher") -> WeightsReport:
    """Copies weights into the network, in the network's own dtype and on its device.

    source: a .safetensors, .pth, .pt, .bin, .ckpt or .tar file, a run's folder, torchvision:IMAGENET1K_V2, timm:resnet50.a1_in1k,
    hf-hub:timm/resnet50.a1_in1k or local-dir:FOLDER.
    num_classes: how many the data have. new_head: leave the classifier as initialised, whatever the file holds for it.
    role: "teacher" or "student", the recipe's section that messages point to.
    Raises DataError, or RecipeError for a tag that does not exist; the network is untouched then.
    """
    found = read_source(source, model_name)
    ours = model.state_dict()
    tensors = _strip_prefixes(found.tensors, ours, source)
    head_names = _head_names(model, is_needed=new_head)
    skipped = head_names if new_head else set()
    misfit = _compare(tensors, ours, skipped)
    if misfit.names:
        where = f"weights {source!r} do not fit {role}.model={model_name}"
        if misfit.names <= head_names:
            raise DataError(f"{where}: {_head_message(misfit, tensors, ours, num_classes, role)}")
        raise DataError(f"{where}{_hint(misfit, tensors, ours, head_names, role)}\n{_listing(misfit, tensors, ours)}")
    fitting = {name: tensor for name, tensor in tensors.items() if name in ours and name not in skipped}
    _refuse_values(fitting, ours, f"weights {source!r}")
    # strict=False only for what _compare lets pass: the skipped head, and counters that old or frozen norms don't have
    model.load_state_dict(fitting, strict=False)
    return WeightsReport(source, found.sha256, found.about.mean, found.about.std, found.about.image_size, new_head)


def _refuse_values(tensors: Mapping[str, Tensor], ours: Mapping[str, Tensor], where: str) -> None:
    """Raises DataError for the first tensor that a network would take without complaint, and never give a sensible answer with."""
    for name, tensor in tensors.items():
        if not ours[name].is_floating_point():
            continue
        if tensor.dtype not in _FLOATS:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise DataError(f"{where}: {name} has values of type {kind}; save the weights in float32, or in another type that torch trains in")
        if not tensor.to(ours[name].dtype).isfinite().all():
            raise DataError(f"{where}: {name} has values that are nan or infinite: the training that made it diverged, or the file is damaged")


def checksum(model: nn.Module) -> str:
    """Hexadecimal sha256 over names, dtypes, shapes and bytes of all parameters and buffers."""
    return tensors_sha256({**dict(model.named_parameters()), **dict(model.named_buffers())})


def _strip_prefixes(tensors: Mapping[str, Tensor], ours: Collection[str], source: str) -> dict[str, Tensor]:
    """Names as the network has them. Prefixes go one by one, and only until the name is known: some networks have an `encoder.` themselves."""
    stripped: dict[str, Tensor] = {}
    for full, tensor in tensors.items():
        name = full
        while name not in ours and (prefix := next(filter(name.startswith, _PREFIXES), None)):
            name = name.removeprefix(prefix)
        if name in stripped:
            raise DataError(f"weights {source!r} holds several networks: {full!r} and another tensor both mean {name!r}. Save one of them")
        stripped[name] = tensor
    return stripped


def _head_names(model: nn.Module, is_needed: bool) -> set[str]:
    try:
        path, head = find_head(model)
    except RecipeError:
        if is_needed:
            raise
        return set()
    return {f"{path}.{name}" for name in head.state_dict()}


def _compare(tensors: Mapping[str, Tensor], ours: Mapping[str, Tensor], skipped: Collection[str]) -> _Misfit:
    """num_batches_tracked may differ: old files lack it, frozen norms have none, and a norm with a momentum does not read it."""
    theirs, known = ([name for name in names if not name.endswith("num_batches_tracked") and name not in skipped] for names in (tensors, ours))
    return _Misfit(
        missing=[name for name in known if name not in tensors],
        unexpected=[name for name in theirs if name not in ours],
        misshapen=[name for name in known if name in tensors and tensors[name].shape != ours[name].shape],
    )


def _head_message(misfit: _Misfit, tensors: Mapping[str, Tensor], ours: Mapping[str, Tensor], num_classes: int, role: str) -> str:
    """For weights that fit except for the classifier."""
    name = next((name for name in misfit.misshapen if tensors[name].dim() == 2), None)
    if name is None or tensors[name].shape[1] != ours[name].shape[1]:
        return f"all of it fits except the head; {role}.new_head: true trains a new one\n{_listing(misfit, tensors, ours)}"
    counts = f"the file's head has {len(tensors[name])} classes, the data has {num_classes}"
    if role != "teacher":
        return f"{counts}; {role}.new_head: true keeps the rest and trains a new head"
    return (
        f"{counts}; teacher.classes names the weights' classes, where the data's are among them; else take weights trained on these, "
        "or train such a network here first, as a student with new_head: true"
    )


def _hint(misfit: _Misfit, tensors: Mapping[str, Tensor], ours: Mapping[str, Tensor], head_names: set[str], role: str) -> str:
    if misfit.names - head_names == set(misfit.misshapen) - head_names == {"conv1.weight"}:
        return f": only the first convolution differs; check {role}.stem (a 7x7 kernel is stem: imagenet, 3x3 is small) and in_channels"
    name = _architecture(tensors)
    return f": these are {name} weights: set {role}.model={name}" if name and name != _architecture(ours) else ""


def _architecture(tensors: Mapping[str, Tensor]) -> str | None:
    """Which of our ResNets these tensors belong to, whatever its head, stem, norm and shortcuts."""
    shapes = _convolutions(tensors)
    with torch.device("meta"):  # shapes only: no memory, no random numbers
        return next((name for name, build in OWN.items() if _convolutions(build().state_dict()) == shapes), None)


def _convolutions(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    inside = {name: tensor.shape for name, tensor in tensors.items() if tensor.dim() == 4 and name != "conv1.weight"}
    return {name: shape for name, shape in inside.items() if ".downsample." not in name}


def _listing(misfit: _Misfit, tensors: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> str:
    shapes = [f"{name} {list(tensors[name].shape)} instead of {list(ours[name].shape)}" for name in misfit.misshapen]
    groups = {"missing in the file": misfit.missing, "not in the network": misfit.unexpected, "of another shape": shapes}
    return "\n".join(f"  {title} ({len(names)}): {', '.join(names)}" for title, names in groups.items() if names)
