"""From a name in a recipe to the class it stands for. Only built-ins, installed entry points, and files the user names are ever imported."""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

import distill.data.sources
import distill.losses
from distill.data.sources.base import DataSource
from distill.errors import RecipeError
from distill.losses.base import DistillLoss
from distill.models.zoo import OWN, Builders

_BASES = {"losses": DistillLoss, "sources": DataSource, "models": nn.Module}
_WORDS = {"losses": "loss", "sources": "data source", "models": "model"}
_PACKAGES = {"losses": distill.losses, "sources": distill.data.sources}


class Catalogue:
    """The names that a recipe may use for losses, data sources and, beside those of `models.zoo`, models, and where each comes from. A class is
    imported when it is asked for."""

    def __init__(self, plugins: Sequence[str] = ()):
        """plugins: files or modules that the user named. Raises RecipeError if one can't be used or two places claim one name."""
        self.plugins = list(dict.fromkeys(plugins))
        self._places: dict[str, dict[str, tuple[str, Callable[[], Any]]]] = {kind: {} for kind in _BASES}
        for name in OWN:
            self._add("models", name, "distill.models", functools.partial(OWN.__getitem__, name))
        for kind, package in _PACKAGES.items():
            for module in pkgutil.iter_modules(package.__path__):
                if module.name != "base" and not module.name.startswith("_"):
                    self._add(kind, module.name, f"{package.__name__}.{module.name}", _from_module(f"{package.__name__}.{module.name}", kind))
        for kind in _BASES:
            for entry in metadata.entry_points(group=f"distill.{kind}"):
                self._add(kind, entry.name, f"entry point {entry.value}", _from_entry_point(entry, kind))
        for plugin in dict.fromkeys(plugins):
            self._add_plugin(plugin)

    def names(self, kind: str) -> list[str]:
        """All names of a kind, "losses", "sources" or "models", in alphabetical order."""
        return sorted(self._places[kind])

    @property
    def models(self) -> Builders:
        """What builds each network that is not ours, for `models.zoo.create_model`."""
        return {name: functools.partial(_build, load) for name, (_, load) in self._places["models"].items() if name not in OWN}

    def get(self, kind: str, name: str) -> Any:
        """The class, or for our own networks the function that builds one. Raises RecipeError with the nearest name if there is none."""
        if name not in self._places[kind]:
            close = difflib.get_close_matches(name, self.names(kind), 1)
            guess = f"did you mean {close[0]!r}? " if close else ""
            what = _WORDS[kind]
            raise RecipeError(
                f"unknown {what} {name!r}; {guess}there are: {', '.join(self.names(kind))} (a {what} of your own comes with --plugin FILE)"
            )
        return self._places[kind][name][1]()

    def _add(self, kind: str, name: str, place: str, load: Callable[[], Any]) -> None:
        if name in self._places[kind]:
            raise RecipeError(f"two {kind} are called {name!r}: {self._places[kind][name][0]} and {place}; rename one")
        self._places[kind][name] = (place, load)

    def _add_plugin(self, plugin: str) -> None:
        module, found = import_plugin(plugin), 0
        for kind, base in _BASES.items():
            for cls in subclasses(module, base):
                if kind == "models" and not _is_network(cls):
                    continue
                self._add(kind, snake_case(cls.__name__), f"{plugin}:{cls.__name__}", functools.partial(_given, cls))
                found += 1
        if not found:
            raise RecipeError(f"--plugin {plugin}: no subclass of DistillLoss or DataSource is defined there, nor a Module that takes num_classes")


def _is_network(cls: type) -> bool:
    """Not a block, a loss or a wrapper: what gives logits is told how many."""
    return not issubclass(cls, DistillLoss) and "num_classes" in inspect.signature(cls).parameters


def _given(cls: type) -> type:
    return cls


def _build(load: Callable[[], Any], **arguments: Any) -> nn.Module:
    return load()(**arguments)


def snake_case(name: str) -> str:
    """FeatureMSE2 -> feature_mse2"""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def subclasses(module: ModuleType, base: type) -> list[type]:
    """The module's own ones, each once, whatever other names the module gives them; not those whose name begins with _, which others build on."""
    classes = dict.fromkeys(value for value in vars(module).values() if inspect.isclass(value))
    return [cls for cls in classes if issubclass(cls, base) and cls.__module__ == module.__name__ and not cls.__name__.startswith("_")]


def _from_module(module_name: str, kind: str) -> Callable[[], type]:
    def load() -> type:
        classes = subclasses(importlib.import_module(module_name), _BASES[kind])
        if len(classes) != 1:
            raise RecipeError(f"{module_name} must define exactly one {_BASES[kind].__name__}, it defines {len(classes)}")
        return classes[0]

    return load


def _from_entry_point(entry: metadata.EntryPoint, kind: str) -> Callable[[], type]:
    def load() -> type:
        try:
            cls = entry.load()
        except Exception as error:
            raise RecipeError(f"the entry point {entry.name} = {entry.value} can't be loaded: {type(error).__name__}: {error}") from error
        if not (inspect.isclass(cls) and issubclass(cls, _BASES[kind])):
            raise RecipeError(f"the entry point {entry.name} = {entry.value} is not a subclass of {_BASES[kind].__name__}")
        return cls

    return load


def import_plugin(plugin: str) -> ModuleType:
    """A file by its path, or a module by its dotted name. Raises RecipeError if it can't be imported."""
    path = Path(plugin)
    try:
        if path.suffix != ".py":
            return importlib.import_module(plugin)
        if not path.is_file():
            raise RecipeError(f"--plugin {plugin}: there is no such file")
        name = f"distill_plugin_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path.resolve())
        assert spec is not None  # as for every file that ends in .py
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # worker processes and pickles look it up there
        spec.loader.exec_module(module)
        return module
    except RecipeError:
        raise
    except (Exception, SystemExit) as error:  # a script that ends with sys.exit() would end us too, as if all were well
        raise RecipeError(f"--plugin {plugin} can't be imported: {type(error).__name__}: {error}") from error
