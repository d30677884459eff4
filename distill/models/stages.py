"""Which modules are a network's stages, for the names layer1 .. layer4: said by the network itself, or found by running it once."""

from __future__ import annotations

import contextlib
import re
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from distill.models.layouts import as_map_or_vector, num_prefix_tokens
from distill.models.modes import in_eval_mode

_NUM_STAGES = 4
_SIZES = (224, 64, 32, 256, 384)  # pixels a side of the picture that is tried: most take any, some transformers their own only
_found: weakref.WeakKeyDictionary[nn.Module, Mapping[str, str]] = weakref.WeakKeyDictionary()


class _Seen(NamedTuple):
    """What a module put out in the one run."""

    place: int  # in the order in which modules were done
    side: int  # height and width of its map


def find_stages(model: nn.Module) -> Mapping[str, str]:
    """Canonical name -> module path, shallow to deep: "layer4" is the deepest stage, and a network of three has layer2 .. layer4.

    In this order: its own layer1 .. layer4; the last four strides of timm's feature_info; else it is shown a black picture, and where its maps
    shrink a stage ends. A network whose maps never shrink, such as a ViT, is cut into four equal parts. Empty for a network without maps.
    """
    if model not in _found:
        own = [name for name, _ in model.named_children() if re.fullmatch(r"layer\d", name)]
        _found[model] = {name: name for name in own if len(own) > 1} or _named(_by_feature_info(model) or _by_running(model))
    return _found[model]


def _named(paths: Sequence[str]) -> dict[str, str]:
    paths = paths[-_NUM_STAGES:]
    return {f"layer{_NUM_STAGES - len(paths) + number}": path for number, path in enumerate(paths, start=1)}


def _by_feature_info(model: nn.Module) -> list[str]:
    modules = dict(model.named_modules())
    known = [one for one in getattr(model, "feature_info", None) or () if one["module"] in modules]
    by_stride = {one["reduction"]: one["module"] for one in known}  # of several with one stride, the last
    return list(by_stride.values()) if len(by_stride) != 1 else _quarters([one["module"] for one in known])


def _quarters(paths: Sequence[str]) -> list[str]:
    """The last of each of four equal parts."""
    return [paths[len(paths) * part // _NUM_STAGES - 1] for part in range(1, _NUM_STAGES + 1)] if len(paths) >= _NUM_STAGES else list(paths)


def _by_running(model: nn.Module) -> list[str]:
    seen = _run(model)
    by_side = {seen[path].side: path for path in _trunk(model, "", seen)}
    if len(by_side) != 1:
        return list(by_side.values())
    longest = max((_seen_children(module, path, seen) for path, module in model.named_modules()), key=len)
    return _quarters(longest)


def _trunk(module: nn.Module, path: str, seen: Mapping[str, _Seen]) -> Iterator[str]:
    """The parts that the picture goes through one after the other."""
    for name, child in module.named_children():
        inner = f"{path}.{name}" if path else name
        if inner in seen and not _is_row_of_stages(child, inner, seen):
            yield inner
        elif any(one.startswith(f"{inner}.") for one in seen):
            yield from _trunk(child, inner, seen)


def _is_row_of_stages(module: nn.Module, path: str, seen: Mapping[str, _Seen]) -> bool:
    """Whether its maps have three sizes or more; or two, and it is a sequence of parts that have parts themselves. Else it is one stage, whose first
    layer may still work at the size of the stage before."""
    sides = {seen[one].side for one in _seen_children(module, path, seen)}
    has_parts = isinstance(module, nn.Sequential) and any(len(list(child.children())) for child in module.children())
    return len(sides) >= (2 if has_parts else 3)


def _seen_children(module: nn.Module, path: str, seen: Mapping[str, _Seen]) -> list[str]:
    paths = [f"{path}.{name}" if path else name for name, _ in module.named_children()]
    return sorted((one for one in paths if one in seen), key=lambda one: seen[one].place)


def _run(model: nn.Module) -> dict[str, _Seen]:
    """What each module put out that is a map of more than one place; of one that ran twice, the last time."""
    seen: dict[str, _Seen] = {}
    prefix = num_prefix_tokens(model)

    def note(path: str, output: object) -> None:
        output = as_map_or_vector(output, prefix) if isinstance(output, Tensor) else None
        if output is not None and output.ndim == 4 and output.shape[2] == output.shape[3] > 1:
            seen.pop(path, None)
            seen[path] = _Seen(len(seen), output.shape[2])

    with contextlib.ExitStack() as hooks:
        for path, module in model.named_modules():
            if path:
                hooks.callback(module.register_forward_hook(lambda _, __, output, path=path: note(path, output)).remove)
        for size in (getattr(model, "image_size", None), *_SIZES):
            if isinstance(size, int) and _takes(model, size):
                break
            seen.clear()
    return seen


def _takes(model: nn.Module, size: int) -> bool:
    weight = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), torch.zeros(()))
    try:
        with in_eval_mode(model), torch.no_grad():
            model(torch.zeros(1, 3, size, size, dtype=weight.dtype, device=weight.device))
    except (RuntimeError, AssertionError, ValueError):  # each network has its own way to refuse a size
        return False
    return True
