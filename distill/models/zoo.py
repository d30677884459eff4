"""Networks by name: our ResNets and those of plug-ins by plain name, anything of torchvision or timm as torchvision/NAME and timm/NAME, and what
timm has saved as hf-hub:ORGANISATION/NAME and local-dir:FOLDER."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from distill.errors import RecipeError
from distill.models.cifar_resnet import CIFAR_RESNETS
from distill.models.norms import make_norm_layer
from distill.models.resnet import RESNETS, STEMS
from distill.models.saved import folder_of, is_saved, what_is_wrong
from distill.structures import FeatureShape, ModelInfo, Norm
from distill.suggestion import did_you_mean

Builders = Mapping[str, Callable[..., nn.Module]]  # name -> what builds a plug-in's network, given num_classes and its own arguments
NO_PLUGINS: Builders = MappingProxyType({})

OWN: Builders = MappingProxyType({**RESNETS, **CIFAR_RESNETS})  # those of this package, by plain name

# What a recipe says elsewhere, or (pretrained, weights, ...) must not say here: weights are loaded and checked by weights.py alone.
_RESERVED = {"num_classes", "norm", "norm_layer", "stem", "in_channels", "in_chans", "pretrained", "weights", "weights_backbone"}
_RESERVED |= {"checkpoint_path", "features_only", "block", "layers", "progress"}
_RESERVED |= {"pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "cache_dir"}


def create_model(
    name: str,
    *,
    num_classes: int,
    norm: str = "batch",
    stem: str = "imagenet",
    in_channels: int = 3,
    arguments: Mapping[str, Any] | None = None,
    plugins: Builders = NO_PLUGINS,
) -> nn.Module:
    """A network with random weights from torch's global generator: images [N, in_channels, H, W] -> logits [N, num_classes].

    norm (see norms.py) and in_channels are our ResNets' own, stem is that of those with four stages; timm's networks take in_channels too.
    arguments go to the constructor.
    plugins: names beside the known ones. Raises RecipeError for an unknown name, an unknown argument, or an option that the network's family does
    not have, DataError for a hub that can't be reached.
    """
    if problem := model_exists(name, plugins):
        raise RecipeError(problem)
    arguments = dict(arguments or {})
    family, plain = _family(name, plugins)
    if family:
        _refuse_own_options(name, family, norm=norm, stem=stem, in_channels=in_channels)
    build = plugins[name] if family == _PLUGIN else _builder(family, plain, norm, stem, in_channels)
    unknown = sorted(_RESERVED & arguments.keys())
    if unknown:
        raise RecipeError(f"model {name!r}: arguments can't set {', '.join(unknown)}; {_allowed_text(build)}")
    try:
        return build(num_classes=num_classes, **arguments)
    except Exception as error:  # each of the libraries' hundreds of constructors has its own way to refuse a value
        unknown = sorted(arguments.keys() - set(_allowed(build)))
        problem = str(error) if isinstance(error, TypeError | ValueError | NotImplementedError) else f"{type(error).__name__}: {error}"
        reason = f"argument {unknown[0]!r} is unknown{did_you_mean(unknown[0], _allowed(build))}" if unknown else problem
        raise RecipeError(f"model {name!r}: {reason}; {_allowed_text(build)}") from error


def model_exists(name: str, plugins: Builders = NO_PLUGINS) -> str | None:
    """None if create_model knows the name, else the sentence that says what is wrong with it. Builds nothing, and asks no hub."""
    family, plain = _family(name, plugins)
    if family == _SAVED:
        return what_is_wrong(name)
    if not family:
        if name in OWN:
            return None
        elsewhere = next((f"{other}/{name}" for other, names in _FAMILIES.items() if name in names()), "")
        hint = f"; did you mean {elsewhere!r}?" if elsewhere else did_you_mean(name, [*OWN, *plugins])
        own = ", ".join([*OWN, *plugins])
        return f"model {name!r} is unknown: one of {own}, torchvision/NAME, timm/NAME, hf-hub:ORGANISATION/NAME or local-dir:FOLDER{hint}"
    if family == _PLUGIN:
        return None
    if family not in _FAMILIES:
        return f"model {name!r} is unknown: before the slash comes torchvision or timm{did_you_mean(family, _FAMILIES)}"
    known = _FAMILIES[family]()
    if plain in known:
        return None
    return f"model {name!r} is unknown: {family} has {len(known)} models, not this one{did_you_mean(name, [f'{family}/{k}' for k in known])}"


def _family(name: str, plugins: Builders) -> tuple[str, str]:
    """(whose network it is, "" for our own; its name there)"""
    if is_saved(name):
        return _SAVED, name
    if name in plugins:
        return _PLUGIN, name
    family, _, plain = name.rpartition("/")
    return family, plain


def model_names() -> dict[str, list[str]]:
    """Every name that create_model knows, by family: "distill" and "cifar" for our own, "torchvision" and "timm" with these before the slash."""
    own = {"distill": list(RESNETS), "cifar": list(CIFAR_RESNETS)}
    return own | {family: [f"{family}/{name}" for name in sorted(names())] for family, names in _FAMILIES.items()}


def find_head(model: nn.Module) -> tuple[str, nn.Linear]:
    """Path and module of the classifier: fc, what timm's get_classifier names, else the last linear layer. Raises RecipeError without one."""
    paths = {module: path for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    head: Any = getattr(model, "fc", None)
    get_classifier = getattr(model, "get_classifier", None)
    if head not in paths and callable(get_classifier):
        head = get_classifier()
    if head not in paths:
        head = next(reversed(paths), None)
    if head is None:
        raise RecipeError(f"{type(model).__name__} has no linear layer, so no classifier that 'pooled' or new_head could refer to")
    return paths[head], head


def head_path(model: nn.Module) -> str | None:
    """Path of the classifier that find_head finds; None for a network without a linear layer."""
    return find_head(model)[0] if any(isinstance(module, nn.Linear) for module in model.modules()) else None


def describe(model: nn.Module, name: str, shapes: Mapping[str, FeatureShape], num_classes: int, stages: Mapping[str, str] | None = None) -> ModelInfo:
    """What losses may know of the network. All tensors are copies: training a loss can't reach the network through them.

    stages: module path by feature, as FeatureHooks found it; for the batch norms.
    """
    head: Any = None if (path := head_path(model)) is None else model.get_submodule(path)
    if head is not None and head.out_features != num_classes:  # a network that ends in a convolution: its last linear layer is something else
        head = None
    weight, bias = (None, None) if head is None else (_copy(head.weight), _copy(head.bias))
    norms = {layer: norm for layer, path in (stages or {}).items() if (norm := _last_norm(model.get_submodule(path))) is not None}
    return ModelInfo(name, num_classes, dict(shapes), weight, bias, norms)


def _copy(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.detach().clone()


def _last_norm(stage: nn.Module) -> Norm | None:
    """The last batch norm on the main path of a stage; a shortcut's own norm does not count."""
    norms: list[Any] = [module for path, module in stage.named_modules() if _is_batch_norm(module) and "downsample" not in path]
    return Norm(norms[-1].weight.detach().clone(), norms[-1].bias.detach().clone()) if norms else None


def _is_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm | FrozenBatchNorm2d) and getattr(module, "weight", None) is not None


def _builder(family: str, plain: str, norm: str, stem: str, in_channels: int) -> Callable[..., nn.Module]:
    if family == "torchvision":
        from torchvision.models import get_model

        return lambda **arguments: get_model(plain, weights=None, **arguments)
    if family == _SAVED:
        import timm

        folder = folder_of(plain)  # timm reads config.json there: the architecture, and the arguments that it was built with
        return lambda **arguments: timm.create_model(f"local-dir:{folder}", pretrained=False, in_chans=in_channels, **arguments)
    if family == "timm":
        import timm

        return lambda **arguments: timm.create_model(plain, pretrained=False, in_chans=in_channels, **arguments)
    if stem not in STEMS:
        raise RecipeError(f"stem {stem!r} is unknown: one of {', '.join(STEMS)}{did_you_mean(stem, STEMS)}")
    own = {"norm_layer": make_norm_layer(norm), "in_channels": in_channels}
    if plain in RESNETS:
        return lambda **arguments: RESNETS[plain](stem=stem, **own, **arguments)
    if stem != "imagenet":
        raise RecipeError(f"model {plain!r} always begins with a 3x3 convolution, the small stem: leave stem out")
    return lambda **arguments: CIFAR_RESNETS[plain](**own, **arguments)


def _refuse_own_options(name: str, family: str, *, norm: str, stem: str, in_channels: int) -> None:
    options: dict[str, tuple[str | int, str | int]] = {"norm": (norm, "batch"), "stem": (stem, "imagenet")}
    if family in ("torchvision", _PLUGIN):
        options["in_channels"] = (in_channels, 3)
    having = {"norm": OWN, "stem": RESNETS, "in_channels": OWN}
    for option, (value, default) in options.items():
        if value != default:
            raise RecipeError(
                f"model {name!r}: {option}={value!r} is an option of our own ResNets ({', '.join(having[option])}) only; leave it at {default!r}"
            )


def _allowed(build: Callable[..., nn.Module]) -> list[str]:
    """Names of the constructor's options. The builders take **arguments, so the class that a build on no device gives is asked."""
    try:
        with torch.device("meta"):
            constructor = type(build(num_classes=2)).__init__
    except NotImplementedError:  # torchvision's RegNets compute their widths with tensors
        constructor = type(build(num_classes=2)).__init__
    parameters = inspect.signature(constructor).parameters.values()
    return [one.name for one in parameters if one.default is not one.empty and one.name not in _RESERVED]


def _allowed_text(build: Callable[..., nn.Module]) -> str:
    return f"allowed: {', '.join(_allowed(build))}"


def _torchvision_names() -> list[str]:
    import torchvision.models

    return torchvision.models.list_models(module=torchvision.models)


def _timm_names() -> set[str]:
    import timm  # here and not above: it takes seconds, and our own ResNets don't need it

    return {*timm.list_models(), *timm.list_models(pretrained=True)}  # with and without the tag of the weights


_SAVED, _PLUGIN = "saved by timm", "plug-in"
_FAMILIES: dict[str, Callable[[], Any]] = {"torchvision": _torchvision_names, "timm": _timm_names}
