"""What the commands on a recipe's cache have in common: its data, its teacher as trained, and its cache."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from accelerate import Accelerator

from distill.build.cache import open_cache
from distill.build.check import find_problems
from distill.build.loaders import has_soft_labels, num_views, training_loader
from distill.build.pieces import build_pieces, rehearse, weight_sources
from distill.build.source import open_source
from distill.data.loader import TrainingLoader
from distill.data.sources.base import DataSource
from distill.engine.runtime import make_accelerator, prepare_process, processes, resolve_precision
from distill.engine.stopping import Stopper
from distill.engine.teacher_cache import CachedTeacher
from distill.errors import RecipeError
from distill.fast import form_of_teacher
from distill.preparation import Preparation, prepare
from distill.recipe import Recipe
from distill.recipe_files import read_draft
from distill.report.console import make_console
from distill.resolve import Catalogue
from distill.running import Job
from distill.teacher_store import TeacherStore


@dataclass(frozen=True)
class Opened:
    """A recipe's cache and all that fills it."""

    recipe: Recipe
    cached: CachedTeacher
    loader: TrainingLoader
    accelerator: Accelerator
    job: Job

    @property
    def num_views(self) -> int:
        return num_views(self.recipe)


@contextlib.contextmanager
def prepared(name: str, overrides: Sequence[str], plugins: Sequence[str]) -> Iterator[tuple[Preparation, DataSource, Job]]:
    """The recipe with all of its parts tried once and measured. Raises RecipeError or DataError."""
    catalogue = Catalogue(plugins)
    draft = read_draft(name, overrides)
    recipe = draft.finish(find_problems(draft.values, catalogue))
    if recipe.teachers is not None:
        raise RecipeError(f"{draft.name} has several teachers, and this command is about one: their answers are kept when the recipe is trained")
    if recipe.method != "distill":
        who = "its peer" if recipe.method == "mutual" else "the average of its own weights"
        raise RecipeError(f"{draft.name} learns from {who}, which answers anew in every step: nothing of it can be kept")
    if recipe.teacher is None:
        raise RecipeError(f"{draft.name} has no teacher, so there are no answers to keep")
    prepare_process()
    state = processes()
    with Stopper(recipe.time_limit) as stopper:
        job = Job(catalogue, state, make_console(is_main=state.is_main_process), stopper)
        source = open_source(recipe.data, catalogue)
        yield prepare(recipe.model_copy(update={"control": False}), source, job), source, job


@contextlib.contextmanager
def opened(name: str, overrides: Sequence[str], plugins: Sequence[str]) -> Iterator[Opened]:
    """The recipe's cache; its teacher is trained first if that is how it is made. Raises RecipeError or DataError."""
    with prepared(name, [*overrides, "teacher.cache.use=on"], plugins) as (preparation, source, job):
        recipe = preparation.recipe
        weights = TeacherStore().get_or_train_all(recipe, preparation.teachers, source, job)
        precision, accelerator = resolve_precision(recipe.train.precision, job.state.device), make_accelerator()
        sources = weight_sources(recipe, {role: str(trained.path) for role, trained in weights.items()})
        pieces = build_pieces(recipe, job.catalogue, source, device=job.state.device, precision=precision, weights=sources)
        rehearse(pieces, source, soft_labels=has_soft_labels(recipe, source), unused=recipe.train.unused)
        form_of_teacher(recipe, source, pieces, accelerator, job)
        cached = open_cache(recipe, source, pieces, precision=precision, say=job.say)
        yield Opened(recipe, cached, training_loader(recipe, source, accelerator=accelerator, warn=job.say), accelerator, job)
