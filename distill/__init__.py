"""distill: a small student learns from a big teacher, and is compared honestly with the same student alone."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "load_recipe", "train"]

_PLACES = {"load_recipe": "distill.recipe_files", "train": "distill.job"}


def __getattr__(name: str) -> Any:
    """Public names are imported when they are used, so that `import distill` costs nothing."""
    if name in _PLACES:
        from importlib import import_module

        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'distill' has no attribute {name!r}")
