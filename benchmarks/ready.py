"""A run that stands ready to train, as `distill train` makes it, without a folder to write to and without evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from rich.console import Console

from distill.build.pieces import Pieces, build_pieces, rehearse
from distill.build.trainer import build_trainer
from distill.data.sources.base import DataSource
from distill.engine.runtime import make_accelerator, processes
from distill.engine.stopping import Stopper
from distill.engine.trainer import Trainer
from distill.fast import form_of_teacher
from distill.fast_compile import compile_what_pays
from distill.recipe import Recipe
from distill.resolve import Catalogue
from distill.running import Job


def make_pieces(recipe: Recipe, source: DataSource, device: torch.device, precision: str) -> Pieces:
    """With the teacher in the form that `fast` gives it, and compiled where it says so."""
    job = Job(Catalogue(), processes(), Console(quiet=True), Stopper())
    pieces = build_pieces(recipe, job.catalogue, source, device=device, precision=precision, weights={})
    rehearse(pieces, source)
    form_of_teacher(recipe, source, pieces, make_accelerator(), job)
    made = compile_what_pays(recipe, source, pieces, {}, job, teacher_seconds={})
    if recipe.fast == "compile" and (failed := [one["why"] for one in made.values() if not one["is_compiled"]]):
        raise SystemExit(failed[0])
    return pieces


def make_trainer(
    recipe: Recipe, source: DataSource, pieces: Pieces, precision: str, log: Callable[[Mapping[str, Any]], None] = lambda event: None
) -> Trainer:
    trainer, _ = build_trainer(recipe, source, pieces, make_accelerator(), precision=precision, log=log)
    trainer.evaluate = lambda check: {"val_top1": 0.0}
    return trainer
