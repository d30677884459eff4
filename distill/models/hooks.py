"""FeatureHooks: what some modules of a network put out, once a step, with nothing kept afterwards."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from distill.errors import DistillError, RecipeError
from distill.models.layouts import as_map_or_vector, num_prefix_tokens
from distill.models.modes import in_eval_mode
from distill.models.stages import find_stages
from distill.models.zoo import find_head
from distill.structures import FeatureShape
from distill.suggestion import did_you_mean

_BEFORE = ".pre"
_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish)


class FeatureHooks:
    """Catches features by name while the network runs as usual; pop() hands them out and forgets them.

    Names: "layer1" .. "layer4" (in a network without such modules, the stages that `find_stages` finds), "last" (the last stage), "pooled" (the
    classifier's input, [N, D]), "layer3.pre" (a stage's values before its last activation) or any module path ("layer3.0.conv2").
    aliases maps such a name to the module path that stands for it; an aliased "pooled" is that module's output, flattened.
    Tokens [N, L, D] and channels-last maps [N, H, W, C] are handed out as maps [N, C, H, W]; see layouts.py.
    A module that runs twice in one forward leaves its last output. Gradients flow through what is caught.

    A ReLU in place behind a module (each bn1, bn2 and bn3 of a ResNet has one) overwrites that module's output after the hook has run.
    So the first forward's outputs are cloned, the first pop() sees which originals were overwritten, and only those are cloned from then on.

    Register before torch.compile, and run one forward before it: hooks added after the first compiled call never fire.
    Raises RecipeError for a name that the network does not have.
    """

    def __init__(self, model: nn.Module, names: Iterable[str], aliases: Mapping[str, str] = MappingProxyType({})):
        modules = dict(model.named_modules())
        self._num_prefix_tokens = num_prefix_tokens(model)
        sources = {name: _resolve(model, modules, name, aliases) for name in dict.fromkeys(names)}  # all names, before any hook is set
        catchers = {source: _Catcher(*source) for source in sources.values()}
        self._catchers = {name: catchers[source] for name, source in sources.items()}
        self.stages = {name: _resolve(model, modules, _stage_name(name, aliases), aliases)[0] for name in sources}
        self._handles: list[RemovableHandle] = []
        for (path, takes_input), catcher in catchers.items():
            module = modules[path]
            self._handles.append(module.register_forward_pre_hook(catcher) if takes_input else module.register_forward_hook(catcher))

    # stages: by feature, the path of the module that it comes from; of "layer4.pre" the stage, not its activation

    @property
    def names(self) -> tuple[str, ...]:
        """Of the features that pop() hands out."""
        return tuple(self._catchers)

    def pop(self) -> dict[str, Tensor]:
        """Features of the last forward by name, maps [N, C, H, W] and "pooled" [N, D].

        Raises DistillError if a feature was not caught since the last pop, or was overwritten though the first forward had not done so.
        """
        if not self._catchers:
            return {}
        missing = [name for name, catcher in self._catchers.items() if catcher.caught is None]
        if missing:
            raise DistillError(
                f"no feature was caught for {', '.join(missing)} since the last pop: the network did not run those modules "
                "(a forward comes before each pop, and hooks are set before torch.compile)"
            )
        popped = {catcher: catcher.take() for catcher in dict.fromkeys(self._catchers.values())}
        return {name: self._laid_out(name, popped[one]) for name, one in self._catchers.items()}

    def _laid_out(self, name: str, feature: Tensor) -> Tensor:
        return feature.flatten(1) if name == "pooled" else as_map_or_vector(feature, self._num_prefix_tokens)

    def remove(self) -> None:
        """Takes the hooks off the network and forgets what they caught. A second call does nothing."""
        for handle in self._handles:
            handle.remove()
        for catcher in self._catchers.values():
            catcher.forget()

    def __enter__(self) -> FeatureHooks:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


class _Catcher:
    """The hook on one module: a forward hook, or a forward pre-hook where the input is asked for."""

    def __init__(self, path: str, takes_input: bool):
        self.path = path
        self.takes_input = takes_input
        self.is_overwritten: bool | None = None  # None: not known yet, so clone and look
        self.caught: Tensor | None = None
        self.original: Tensor | None = None
        self.version: int | None = None

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any = None) -> None:
        value = inputs[0] if self.takes_input else output
        if not isinstance(value, Tensor):
            raise DistillError(f"feature {self.path!r} is a {type(value).__name__}, not a tensor: name a module inside it")
        # Neither a compiler's nor an inference tensor tells the truth about being overwritten; such a feature stays cloned until one does.
        tells = not torch.compiler.is_compiling() and not value.is_inference()
        self.original = value if tells and not self.is_overwritten else None
        self.version = value._version if tells else None
        self.caught = value if self.is_overwritten is False else value.clone()

    def take(self) -> Tensor:
        caught, original, version = self.caught, self.original, self.version
        assert caught is not None  # pop() has named what was not caught
        self.forget()
        if original is not None:
            was_overwritten = original._version != version
            if self.is_overwritten is False and was_overwritten:
                raise DistillError(
                    f"feature {self.path!r} was overwritten in place in this forward, though not in the first one: "
                    "name the module after it, or make the operation that follows it not in place"
                )
            self.is_overwritten = was_overwritten
        return caught

    def forget(self) -> None:
        self.caught = self.original = self.version = None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """A copied or pickled network gets a hook that does nothing: an EMA copy neither fires into the student's hooks nor keeps tensors."""
        return _Inert, ()


class _Inert:
    """What a catcher becomes in a copy."""

    def __call__(self, *_: object) -> None:
        return None


def measure_shapes(
    model: nn.Module, hooks: FeatureHooks, image_size: int, in_channels: int = 3, device: torch.device | str | None = None
) -> dict[str, FeatureShape]:
    """Shapes of the hooked features by one forward of two black pictures in eval mode; modes and buffers stay as they are.

    device: where the pictures are made; the model's own if None. Raises RecipeError if the network can't take pictures of this size.
    """
    try:
        _dry_run(model, image_size, in_channels, device)
        features = hooks.pop()
    except (RuntimeError, AssertionError, ValueError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise RecipeError(_why_not(model, image_size, in_channels, device, error)) from error
    finally:
        for catcher in hooks._catchers.values():
            catcher.forget()
    return {name: _shape(name, feature, image_size) for name, feature in features.items()}


def _dry_run(model: nn.Module, image_size: int, in_channels: int, device: torch.device | str | None) -> None:
    weight = next(parameter for parameter in model.parameters() if parameter.is_floating_point())
    images = torch.zeros(2, in_channels, image_size, image_size, dtype=weight.dtype, device=device or weight.device)
    with in_eval_mode(model), torch.no_grad():
        model(images)


def _why_not(model: nn.Module, image_size: int, in_channels: int, device: torch.device | str | None, error: Exception) -> str:
    """Too small, if bigger pictures pass; of another size than the network is made for; else whatever the network itself says."""
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    if image_size != 224 and _passes(model, 224, in_channels, device):
        if image_size < 224 and any(_passes(model, other, in_channels, device) for other in (223, 192)):
            return _too_small(image_size, reason)
        return (
            f"{type(model).__name__} is made for pictures of 224 px, not of {image_size} ({reason}): a teacher is shown larger ones with "
            f"teacher.image_size: 224; most transformers of timm are built for others with arguments: {{img_size: {image_size}}}"
        )
    return f"{type(model).__name__} can't take pictures of {in_channels} channels and {image_size} px: {reason}"


def _passes(model: nn.Module, image_size: int, in_channels: int, device: torch.device | str | None) -> bool:
    try:
        _dry_run(model, image_size, in_channels, device)
    except (RuntimeError, AssertionError, ValueError):
        return False
    return True


def _too_small(image_size: int, reason: str) -> str:
    return f"pictures of {image_size} px are too small for it ({reason}): set a larger data.image_size, or stem: small for our ResNets"


def _shape(name: str, feature: Tensor, image_size: int) -> FeatureShape:
    if feature.dim() not in (2, 4):
        raise RecipeError(
            f"feature {name!r} has shape {list(feature.shape)}: losses take maps [N, C, H, W], vectors [N, D], and tokens [N, L, D] of a square grid"
        )
    if 0 in feature.shape:
        raise RecipeError(_too_small(image_size, f"{name} becomes {list(feature.shape)}"))
    return FeatureShape(*feature.shape[1:])


def _resolve(model: nn.Module, modules: Mapping[str, nn.Module], name: str, aliases: Mapping[str, str]) -> tuple[str, bool]:
    """Module path of a feature, and whether the module's input is meant instead of its output."""
    if name == "pooled" and name not in aliases:
        return find_head(model)[0], True
    if (stage := _stage_name(name, aliases)) != name:
        return _last_activation(model, modules, *_resolve(model, modules, stage, aliases)), True
    path = aliases.get(name) or _canonical(model, modules, name, aliases)
    if path in modules and path:
        return path, False
    asked = repr(name) if path in (name, None) else f"{name!r} (mapped to {path!r})"
    raise RecipeError(
        f"{type(model).__name__} has no feature {asked}; {_known(model, modules)}{did_you_mean(path or name, [*modules, 'pooled', 'last'])}"
    )


def _canonical(model: nn.Module, modules: Mapping[str, nn.Module], name: str, aliases: Mapping[str, str]) -> str | None:
    """Path for a name without an alias; None for the last stage of a network that has none."""
    if name in modules or not re.fullmatch(r"layer\d|last", name):
        return name
    stages = {**find_stages(model), **{stage: path for stage, path in aliases.items() if stage.startswith("layer")}}
    return stages.get(name, name) if name != "last" else next(reversed(stages.values()), None)


def _stage_name(name: str, aliases: Mapping[str, str]) -> str:
    """ "layer4" for "layer4.pre", else the name itself."""
    return name if name in aliases else name.removesuffix(_BEFORE)


def _last_activation(model: nn.Module, modules: Mapping[str, nn.Module], path: str, takes_input: bool) -> str:
    """Path of the activation that ends a stage: the last one that its last block, or the stage itself, holds directly."""
    blocks = [] if takes_input else [path, *(f"{path}.{name}" for name, _ in modules[path].named_children())]
    for block in reversed(blocks):
        activations = [name for name, child in modules[block].named_children() if isinstance(child, _ACTIVATIONS)]
        if activations:
            return f"{block}.{activations[-1]}"
    raise RecipeError(f"{type(model).__name__}'s {path!r} does not end in an activation that could be looked before; name another layer or drop .pre")


def _known(model: nn.Module, modules: Mapping[str, nn.Module]) -> str:
    """Stages and top-level modules by name; only the count of the rest, which may be hundreds."""
    stages = find_stages(model)
    shown = [name if name == path else f"{name} ({path})" for name, path in stages.items()]
    others = [path for path in modules if path and "." not in path and path not in stages]
    deeper = len(modules) - 1 - sum(name in modules for name in stages) - len(others)
    return f"it has {', '.join([*shown, 'pooled', 'last', *others])} and {deeper} modules inside these, by path such as layer3.0.conv2"
