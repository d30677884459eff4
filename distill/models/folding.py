"""Batch norms folded into the convolutions before them, in place: what a frozen network computes, with fewer passes over its maps.

w * x normalised is (scale * w) * x + shift, where scale = weight / sqrt(running_var + eps) and shift = bias - running_mean * scale: a convolution
with other weights and a bias. Source: the batch norm of Ioffe & Szegedy 2015, arXiv 1502.03167, written as one affine map. torch.fx's folding traces
the network instead: hooks then never fire, and modules lose their names.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import FrozenBatchNorm2d

_PLAIN = (nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d)
_WITH_ACTIVATION = (BatchNormAct2d, FrozenBatchNormAct2d)
_HOOKS = ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called")


@dataclass(frozen=True)
class Folding:
    """What was folded, and the way back."""

    num_folded: int
    num_norms: int  # batch norms that the network had
    undo: Callable[[], None]  # brings every tensor and module back, bit for bit


@torch.no_grad()
def fold_batch_norms(model: nn.Module, images: Tensor) -> Folding:
    """Folds each batch norm whose input is one convolution's output and nobody else's, as one forward of `images` [N, C, H, W] shows.

    Names and hooks stay: where the batch norm was is what it did after normalising, with the hooks that it had. Not folded: a convolution that
    something hooks (it would be seen with other values), runs twice, shares its weight, or is not torch's own; a batch norm whose input is hooked.
    Raises ValueError if anything of the model is in train mode or asks for a gradient: then it is not what the network computes.
    """
    if any(module.training for module in model.modules()) or any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("only a frozen network in eval mode can be folded: its batch norms must not move")
    norms = {module: path for path, module in model.named_modules() if type(module) in _PLAIN + _WITH_ACTIVATION and module.running_var is not None}
    ways_back = [_fold(model, norms[norm], convolution, norm) for convolution, norm in _pairs(model, list(norms), images)]

    def undo() -> None:
        for way_back in reversed(ways_back):
            way_back()

    return Folding(len(ways_back), len(norms), undo)


def _pairs(model: nn.Module, norms: list[nn.Module], images: Tensor) -> list[tuple[nn.Conv2d, nn.Module]]:
    """Every convolution with the batch norm that alone takes its output."""
    owners = Counter(id(parameter) for module in model.modules() for parameter in module._parameters.values() if parameter is not None)
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # the tensors are held, so that no other gets their ids
    runs: Counter[nn.Module] = Counter()
    taken: list[tuple[int, nn.Module]] = []

    def note_output(convolution: nn.Conv2d, _: Any, output: Tensor) -> None:
        runs[convolution] += 1
        outputs[id(output)] = convolution, output

    def note_input(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        runs[norm] += 1
        if inputs and id(inputs[0]) in outputs:
            taken.append((id(inputs[0]), norm))

    handles = [module.register_forward_hook(note_output) for module in model.modules() if _is_foldable(module, owners)]
    handles += [norm.register_forward_pre_hook(note_input) for norm in norms if not norm._forward_pre_hooks]
    try:
        with _Readers(outputs) as readers:
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    pairs = [(outputs[key][0], norm) for key, norm in taken if readers.found[key] == 1]
    return [(convolution, norm) for convolution, norm in pairs if runs[convolution] == runs[norm] == 1]


class _Readers(TorchDispatchMode):
    """Counts, for each of some tensors by id, the operators that are given it."""

    def __init__(self, watched: dict[int, Any]):
        super().__init__()
        self.watched = watched
        self.found: Counter[int] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        given = torch.utils._pytree.tree_leaves((args, kwargs))
        self.found.update({id(value) for value in given if isinstance(value, Tensor) and id(value) in self.watched})
        return function(*args, **(kwargs or {}))


def _is_foldable(module: nn.Module, owners: Counter[int]) -> bool:
    if type(module) is not nn.Conv2d or owners[id(module.weight)] > 1 or nn.utils.parametrize.is_parametrized(module):
        return False
    return not (module._forward_hooks or module._forward_pre_hooks)


def _fold(model: nn.Module, path: str, convolution: nn.Conv2d, norm: nn.Module) -> Callable[[], None]:
    """Folds one pair; returns what undoes it."""
    weight, bias = convolution.weight, convolution.bias
    scale, shift = _affine(norm)
    folded = weight.cpu().double() * scale.view(-1, 1, 1, 1)
    shift = shift if bias is None else shift + bias.cpu().double() * scale
    convolution.weight = nn.Parameter(folded.to(weight.dtype, memory_format=_format(weight)).to(weight.device), requires_grad=False)
    convolution.bias = nn.Parameter(shift.to(weight.dtype).to(weight.device), requires_grad=False)
    parent, _, name = path.rpartition(".")
    model.get_submodule(parent)._modules[name] = _what_is_left(norm)

    def undo() -> None:
        convolution.weight, convolution.bias = weight, bias
        model.get_submodule(parent)._modules[name] = norm

    return undo


def _affine(norm: Any) -> tuple[Tensor, Tensor]:
    """(scale [C], shift [C]) of a batch norm in eval mode, in float64 on the host: not every device has it."""
    mean, variance = (values.cpu().double() for values in (norm.running_mean, norm.running_var))
    weight, bias = (
        torch.full_like(mean, empty) if value is None else value.cpu().double() for value, empty in ((norm.weight, 1.0), (norm.bias, 0.0))
    )
    scale = weight * (variance + norm.eps).rsqrt()
    return scale, bias - mean * scale


def _what_is_left(norm: Any) -> nn.Module:
    """What the module did after normalising, with its hooks; in the same dictionaries, so that their handles still take them off."""
    left = nn.Sequential(OrderedDict(drop=norm.drop, act=norm.act)) if type(norm) in _WITH_ACTIVATION else nn.Identity()
    for name in _HOOKS:
        setattr(left, name, getattr(norm, name))
    return left.eval()


def _format(weight: Tensor) -> torch.memory_format:
    return torch.channels_last if weight.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
