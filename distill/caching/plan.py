"""`distill cache plan RECIPE`: what keeping the teacher's answers takes and saves, from the speeds of this machine."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from distill.build.cache import MOST_READING, formats, num_classes
from distill.build.loaders import num_views
from distill.build.notes import size_in_words
from distill.build.pieces import Pieces, build_pieces
from distill.caching.opening import prepared
from distill.data.sources.base import DataSource
from distill.engine.answer_formats import logit_format
from distill.engine.cache_files import row_bytes
from distill.engine.costs import seconds_to_read
from distill.engine.runtime import resolve_precision
from distill.engine.teacher_cache import layout_of
from distill.places import cache_folder
from distill.preparation import Preparation
from distill.running import Job

_RUNS_SHOWN = (1, 2, 3, 5, 10)


@dataclass(frozen=True)
class Plan:
    """Times in seconds for one picture."""

    teacher_seconds: float  # forward
    student_seconds: float  # a training step
    reading_seconds: float  # of one answer, from memory
    format: str
    features: list[str]  # that the losses need, or that are asked for
    is_asked_for: bool  # whether the recipe has all of these kept
    bytes_an_answer: int
    num_pictures: int
    num_views: int
    num_epochs: int
    free_bytes: int

    @property
    def pays(self) -> bool:
        return self.reading_seconds < MOST_READING * self.teacher_seconds

    @property
    def total_bytes(self) -> int:
        return self.bytes_an_answer * self.num_pictures * self.num_views

    @property
    def speed_up(self) -> float:
        """Of a run for which every answer is there."""
        return (self.teacher_seconds + self.student_seconds) / (self.student_seconds + self.reading_seconds)

    def speed_up_over(self, runs: int) -> float:
        """Of `runs` runs in all, the first of which fills the cache."""
        asked = self.teacher_seconds * min(1.0, self.num_views / (runs * self.num_epochs))
        return (self.teacher_seconds + self.student_seconds) / (self.student_seconds + self.reading_seconds + asked)

    @property
    def break_even_runs(self) -> int | None:
        """The number of runs from which on keeping takes less time in all; None for never."""
        if self.reading_seconds >= self.teacher_seconds:
            return None
        needed = self.num_views / self.num_epochs * self.teacher_seconds / (self.teacher_seconds - self.reading_seconds)
        return max(1, math.floor(needed) + 1)


def plan(name: str, overrides: Sequence[str], plugins: Sequence[str], *, as_json: bool = False) -> None:
    """Prints the plan. Raises RecipeError or DataError."""
    with prepared(name, overrides, plugins) as (preparation, source, job):
        found = make_plan(preparation, source, job)
        if not job.is_main:
            return
        if as_json:
            more = {"speed_up": found.speed_up, "break_even_runs": found.break_even_runs, "total_bytes": found.total_bytes, "pays": found.pays}
            print(json.dumps(asdict(found) | more, indent=2))
        else:
            _show(found, Console(highlight=False))


def make_plan(preparation: Preparation, source: DataSource, job: Job) -> Plan:
    """What a cache of this recipe would hold and cost, from one answer and the measured costs. Raises what building the networks raises."""
    recipe, costs = preparation.recipe, preparation.costs
    precision = resolve_precision(recipe.train.precision, job.state.device)
    pieces = build_pieces(recipe, job.catalogue, source, device=job.state.device, precision=precision, weights={})
    name, features = formats(recipe, source, pieces, precision)[0], _features(pieces, recipe.teacher.cache.features)
    pictures = torch.zeros(2, 3, source.image_size, source.image_size, dtype=torch.uint8, device=job.state.device)
    half = None if name in ("fp64", "fp32") else torch.bfloat16
    logits = logit_format(name, num_classes(recipe, source), top_k=recipe.teacher.cache.top_k)
    answer = row_bytes(layout_of(pieces.teacher, logits, features, pictures, half).columns)
    place = Path(recipe.teacher.cache.folder or cache_folder("answers")).expanduser().absolute()
    existing = next(path for path in (place, *place.parents) if path.exists())
    return Plan(
        1 / costs["teacher"].images_per_second,
        1 / costs["student"].training_images_per_second,
        seconds_to_read(answer),
        name,
        features,
        set(features) <= set(recipe.teacher.cache.features),
        answer,
        len(source.train),
        num_views(recipe),
        recipe.train.epochs,
        shutil.disk_usage(existing).free,
    )


def _features(pieces: Pieces, kept: Sequence[str]) -> list[str]:
    needed = [layer for _, loss in pieces.distiller.each_loss() for layer in loss.layers]
    return list(dict.fromkeys([*kept, *needed]))


def _show(found: Plan, console: Console) -> None:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    share = found.teacher_seconds / (found.teacher_seconds + found.student_seconds)
    what = f"logits as {found.format}" + (f", {', '.join(found.features)}" if found.features else "") + ", hash and seal"
    table.add_row("the teacher", f"{1e3 * found.teacher_seconds:.3g} ms a picture, {share:.0%} of a step")
    table.add_row("the student's step", f"{1e3 * found.student_seconds:.3g} ms a picture")
    table.add_row("one answer", f"{size_in_words(found.bytes_an_answer)} ({what}), read in {1e3 * found.reading_seconds:.2g} ms")
    table.add_row("one view", f"{found.num_pictures:,} pictures, {size_in_words(found.bytes_an_answer * found.num_pictures)}")
    table.add_row("this recipe", f"{found.num_views} view(s) in {found.num_epochs} epoch(s), {size_in_words(found.total_bytes)} in all")
    table.add_row("free there", size_in_words(found.free_bytes))
    table.add_row("a run with all answers there", f"{found.speed_up:.2f} times as fast")
    runs = ", ".join(f"{runs}: {found.speed_up_over(runs):.2f}" for runs in _RUNS_SHOWN)
    table.add_row("runs that share them", f"{runs} times as fast over all")
    even = found.break_even_runs
    table.add_row("pays from", "never" if even is None else f"{even} run(s) on")
    console.print(table)
    if not found.pays:
        console.print(
            f"Keeping would lose: reading an answer takes {found.reading_seconds / found.teacher_seconds:.0%} of the teacher's own time, from "
            f"memory; more than {MOST_READING:.0%} is not worth it. Ask the teacher in every step (teacher.cache.use=off).",
            soft_wrap=True,
        )
    elif found.features and not found.is_asked_for:
        console.print(f"The losses need more than the logits: teacher.cache.features=[{','.join(found.features)}] keeps it.", soft_wrap=True)
    if found.total_bytes > found.free_bytes:
        console.print("It does not fit: data.views=K with fewer views needs less.", soft_wrap=True)
