"""What a loss holds besides its parameters, buffers and modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

from distill.structures import DataInfo, ModelInfo

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_ATOMS = (str, bytes, int, float, complex, bool, type(None), type, FunctionType, BuiltinFunctionType, MethodType, ModuleType, ModelInfo, DataInfo)


def attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """(path, thing) of everything in the attributes of a module and its modules, however deep in lists, dicts and objects."""
    registered = {id(each) for each in module.modules()}
    seen: set[int] = set()
    for name, owner in module.named_modules():
        for attribute, value in vars(owner).items():
            if attribute not in _OF_EVERY_MODULE:
                yield from _walk(f"{name}.{attribute}" if name else attribute, value, seen, registered)


def hidden_modules(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(path, module) of modules with parameters that are kept in a list, a dict or an object, where modules() does not see them."""
    for path, thing in attributes(module):
        if isinstance(thing, nn.Module) and next(thing.parameters(), None) is not None:
            yield path, thing


def _walk(path: str, thing: Any, seen: set[int], registered: set[int]) -> Iterator[tuple[str, Any]]:
    if id(thing) in registered or (id(thing) in seen and not isinstance(thing, _ATOMS)):
        return
    seen.add(id(thing))
    yield path, thing
    if isinstance(thing, (*_ATOMS, Tensor, nn.Module)):
        return
    if isinstance(thing, Mapping):
        parts = ((f"{path}[{key!r}]", value) for key, value in list(thing.items()))
    elif isinstance(thing, list | tuple | set | frozenset) or type(thing).__name__ == "deque":
        parts = ((f"{path}[{index}]", value) for index, value in enumerate(thing))
    else:
        parts = ((f"{path}.{name}", value) for name, value in list(getattr(thing, "__dict__", {}).items()))
    for part in parts:
        yield from _walk(*part, seen, registered)
