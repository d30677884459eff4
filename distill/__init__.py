"""distill: a small student learns from a big teacher, and is compared honestly with the same student alone."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

_PLACES = {
    "load_recipe": "distill.recipe_files",
    "train": "distill.job",
    "make_distiller": "distill.build.own_loop",
    "create_model": "distill.models.zoo",
    "Distiller": "distill.engine.distiller",
    "Network": "distill.engine.network",
    "Teacher": "distill.engine.teacher",
    "DistillLoss": "distill.losses.base",
    "Batch": "distill.structures",
    "DistillError": "distill.errors",
}
__all__ = ["__version__", *_PLACES]


def __getattr__(name: str) -> Any:
    """Public names are imported when they are used, so that `import distill` costs nothing."""
    if name in _PLACES:
        from importlib import import_module

        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'distill' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Names that are not imported yet too, for whoever asks what there is."""
    return sorted({*globals(), *__all__})
