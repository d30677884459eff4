"""Decides whether and how a run's teacher answers are kept, and opens the cache."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor

from distill.build.loaders import make_views, num_views
from distill.build.notes import size_in_words
from distill.build.pieces import Pieces
from distill.build.plan import plan_run
from distill.data.resizing import plain_view
from distill.data.sources.base import DataSource
from distill.engine.answer_formats import LogitFormat, logit_format
from distill.engine.cache_files import FORMAT, CacheFolder
from distill.engine.costs import seconds_to_read
from distill.engine.teacher import Teacher
from distill.engine.teacher_cache import AnswerLayout, CachedTeacher, layout_of
from distill.errors import DataError, RecipeError
from distill.places import cache_folder
from distill.recipe import OneOfSeveral, Recipe

MOST_FULL = 256  # classes up to which every logit is kept, whatever the format could save
MOST_KL = 1e-3  # nats, the mean over pictures, by which a kept answer may differ from the teacher's at the temperatures that losses use
MOST_READING = 0.25  # of the teacher's time, that reading what is kept may take
_MOST_OF_DISK = 0.5  # of the free space that is taken without being asked for
NUM_TRIED = 256  # pictures that a format is tried on

Say = Callable[[str], None]


class NotKept(Exception):  # noqa: N818 - not an error: the teacher is asked in every step instead
    """Why the teacher's answers can't or should not be kept."""


def open_cache(
    recipe: Recipe, source: DataSource, pieces: Pieces, *, precision: str, say: Say, teacher_seconds: float | None = None
) -> CachedTeacher | None:
    """The teacher with its answers kept; None where it is to be asked in every step, and why is said. teacher_seconds: of one picture, to say so
    where reading a kept answer takes too large a share of it.

    Raises RecipeError or DataError if the recipe asks for what can't be had.
    """
    if pieces.teacher is None or recipe.teacher.cache.use == "off":
        return None
    is_required = recipe.teacher.cache.use == "on"
    try:
        cached = _opened(recipe, source, pieces, precision, say, is_required=is_required)
    except NotKept as reason:
        if is_required:
            raise RecipeError(f"teacher.cache.use=on, but {reason}") from None
        say(f"teacher: it is asked in every step: {reason}")
        return None
    except OSError as error:
        what = f"the teacher cache {error.filename or ''} can't be used ({error.strerror or error})"
        if is_required:
            raise DataError(f"{what}; set teacher.cache.folder=FOLDER to one that can, or teacher.cache.use=off") from error
        say(f"teacher: it is asked in every step: {what}")
        return None
    say(in_words(cached, num_views(recipe)))
    if recipe.teacher.cache.features and teacher_seconds is not None:
        share = seconds_to_read(cached.folder.row_bytes) / teacher_seconds
        if share > MOST_READING:
            say(
                f"teacher: keeping {', '.join(recipe.teacher.cache.features)} loses here: reading an answer takes {share:.0%} of the teacher's own "
                "time, even from memory; leave teacher.cache.features out"
            )
    return cached


def in_words(cached: CachedTeacher, num_views: int) -> str:
    """Where answers are kept, how large, and how many are there."""
    folder = cached.folder
    there = sum(folder.num_written(view) for view in folder.views() if view < num_views)
    size = f"{folder.row_bytes} bytes each, {size_in_words(folder.row_bytes * folder.num_rows * num_views)} for {num_views} view(s)"
    return f"teacher: its answers are kept in {folder.path} ({size}); {there:,} of {folder.num_rows * num_views:,} are there"


def _opened(recipe: Recipe, source: DataSource, pieces: Pieces, precision: str, say: Say, *, is_required: bool) -> CachedTeacher:
    if reason := why_not_kept(recipe, pieces, is_required=is_required):
        raise NotKept(reason)
    names = formats(recipe, source, pieces, precision)
    for name in names:
        layout = _layout(recipe, source, pieces, precision, name)
        too_coarse = _too_coarse(recipe, source, pieces, layout) if name in ("int8", "topk") else None
        if too_coarse is None:
            folder = _folder(recipe, source, pieces, precision, name, layout)
            _require_space(folder, num_views(recipe), is_required=is_required)
            folder.open()
            return CachedTeacher(pieces.teacher, folder, layout, np.sort(source.train.sample_ids), say=say)
        if name == names[-1]:
            raise RecipeError(f"teacher.cache.format={name}: {too_coarse}")
        say(f"teacher cache: not as {name}: {too_coarse}")
    raise AssertionError("a format is left")


def why_not_kept(recipe: Recipe, pieces: Pieces, *, is_required: bool = False) -> str | None:
    """Why this recipe's teacher answers are not kept, as far as that is known without its weights; None if they are. Raises RecipeError."""
    cache, losses = recipe.teacher.cache, dict(pieces.distiller.each_loss())
    if cache.use == "off":
        return "teacher.cache.use=off"
    if recipe.teacher.weights == "random" and not is_required:
        return "its weights are random"
    for label, loss in losses.items():
        if missing := [layer for layer in loss.layers if layer not in cache.features]:
            wanted = ",".join([*cache.features, *missing])
            return f"losses.{label} needs its {', '.join(missing)}, which is not kept (teacher.cache.features=[{wanted}] keeps it)"
    if unused := set(cache.features) - {layer for loss in losses.values() for layer in loss.layers}:
        raise RecipeError(f"teacher.cache.features: no loss of this recipe uses {', '.join(sorted(unused))}, so the teacher does not give it")
    return None


def formats(recipe: Recipe, source: DataSource, pieces: Pieces, precision: str) -> list[str]:
    """The formats to try, the last of them for certain. Raises RecipeError by label for a loss that the asked-for format can't serve."""
    asked, num = recipe.teacher.cache.format, num_classes(recipe, source)
    full = "fp64" if precision == "fp64" else "bf16"
    # in a mean with others, a class that this teacher finds unlikely may be one that another is sure of
    is_averaged = isinstance(recipe.teacher, OneOfSeveral) and recipe.answers != "sampled"
    wanting = [label for label, loss in pieces.distiller.losses.items() if loss.needs_teacher and (loss.needs_all_logits or is_averaged)]
    if asked == "topk" and wanting:
        who = "the mean of several teachers" if is_averaged else f"losses.{wanting[0]}"
        raise RecipeError(
            f"{who} needs all of the teacher's logits, and teacher.cache.format=topk keeps {min(recipe.teacher.cache.top_k, num)} of "
            f"{num}; set teacher.cache.format=bf16 or int8"
        )
    if asked != "auto":
        return [asked]
    return [full] if num <= MOST_FULL or wanting else ["topk", full]


def num_classes(recipe: Recipe, source: DataSource) -> int:
    """Of the teacher, which are the data's unless the recipe says another number."""
    return recipe.teacher.num_classes or len(source.class_names)


def _layout(recipe: Recipe, source: DataSource, pieces: Pieces, precision: str, name: str) -> AnswerLayout:
    logits = logit_format(name, num_classes(recipe, source), top_k=recipe.teacher.cache.top_k)
    device, size = pieces.teacher.network.mean.device, source.image_size
    pictures = torch.zeros(2, 3, size, size, dtype=torch.uint8, device=device)
    half = None if name in ("fp64", "fp32") else torch.bfloat16
    return layout_of(pieces.teacher, logits, recipe.teacher.cache.features, pictures, half)


def identity(recipe: Recipe, source: DataSource, pieces: Pieces, precision: str, format_name: str) -> dict[str, Any]:
    """Everything that decides the teacher's answers, by names that a person understands."""
    teacher, network, views = recipe.teacher, pieces.teacher.network, make_views(recipe, source)
    found = {
        "teacher's model": teacher.model,
        "teacher's arguments": {"norm": teacher.norm, "stem": teacher.stem, **teacher.arguments},
        "teacher's weights": pieces.teacher.checksum,
        "teacher's form": pieces.teacher.form,
        "teacher's image size": network.image_size or source.image_size,
        "teacher's mean": [round(float(value), 6) for value in network.mean.flatten()],
        "teacher's scale": [round(float(value), 9) for value in network.scale.flatten()],
        "precision": precision,
        "views": dataclasses.asdict(views),
        "view_seed": recipe.data.view_seed,
        "pictures": source.fingerprint(),
        "decoder": source.decoder,
        "on_bad_image": recipe.data.on_bad_image,
        "format": format_name if format_name != "topk" else f"topk {teacher.cache.top_k}",
        "features": {name: teacher.features.get(name, name) for name in teacher.cache.features},
    }
    return found | ({"torchvision": torchvision.__version__} if views.one_by_one else {})


def _folder(recipe: Recipe, source: DataSource, pieces: Pieces, precision: str, format_name: str, layout: AnswerLayout) -> CacheFolder:
    decided_by = identity(recipe, source, pieces, precision, format_name)
    key = hashlib.sha256(json.dumps([FORMAT, decided_by], sort_keys=True).encode()).hexdigest()[:16]
    own = cache_folder("answers") / f"{recipe.teacher.model.replace('/', '-')}-{key}"
    path = own if recipe.teacher.cache.folder is None else Path(recipe.teacher.cache.folder).expanduser()
    return CacheFolder(path, decided_by, layout.columns, len(source.train))


def _require_space(folder: CacheFolder, num_views: int, *, is_required: bool) -> None:
    there = [view for view in folder.views() if view < num_views]
    needed = (num_views - len(there)) * folder.num_rows * folder.row_bytes
    existing = next(path for path in (folder.path, *folder.path.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free * (1.0 if is_required else _MOST_OF_DISK):
        what = f"{num_views} views need {needed / 1e9:,.2f} GB in {folder.path}, which has {free / 1e9:,.2f} GB free"
        raise NotKept(f"{what}: data.views=K needs less, or free some, or set teacher.cache.folder=FOLDER on another disk")


def _too_coarse(recipe: Recipe, source: DataSource, pieces: Pieces, layout: AnswerLayout) -> str | None:
    """Why this format will not do at the temperatures that the losses use, as measured on some training pictures; None if it will."""
    answers = some_answers(source, pieces.teacher)
    for label, temperature in temperatures(recipe, source, pieces):
        divergence = measured_kl(answers, layout.logits, temperature)
        if not divergence <= MOST_KL:  # also where it is not a number
            return (
                f"at losses.{label}'s temperature {temperature:g} the kept answers differ from the teacher's by {divergence:.2g} nats (KL, the "
                f"mean of {len(answers)} pictures), more than {MOST_KL:g}; another temperature or another format keeps them"
            )
    return None


def temperatures(recipe: Recipe, source: DataSource, pieces: Pieces) -> Iterator[tuple[str, float]]:
    """(label, temperature) for the highest and the lowest of each loss that learns from the teacher's logits: a tail that is spread evenly shows at
    high ones, rounding at low ones. A loss that works on features, and does not need all logits, does not look at them."""
    num_steps = plan_run(recipe, source, world_size=1).num_steps
    for label, loss in pieces.distiller.losses.items():
        if loss.needs_teacher and (loss.needs_all_logits or not loss.layers):
            values = [float(value) for name, value in vars(loss).items() if _is_temperature(name, value)]
            if schedule := pieces.distiller.schedules.get((label, "temperature")):
                values += [schedule(step) for step in (0, num_steps // 2, num_steps)]
            yield from ((label, temperature) for temperature in sorted({min(values, default=1.0), max(values, default=1.0)}, reverse=True))


def _is_temperature(name: str, value: Any) -> bool:
    return name.endswith("temperature") and not name.startswith("_") and isinstance(value, int | float)


def measured_kl(logits: Tensor, kept_as: LogitFormat, temperature: float) -> float:
    """The mean over [n, K] answers of KL(the answer || the kept answer), both softened; in nats."""
    exact, kept = logits.double(), kept_as.decode(kept_as.encode(logits)).double()
    log_p, log_q = ((values / temperature).log_softmax(dim=1) for values in (exact, kept))
    return float((log_p.exp() * (log_p - log_q)).sum(dim=1).mean())


@torch.no_grad()
def some_answers(source: DataSource, teacher: Teacher) -> Tensor:
    """[n, K] the teacher's logits for some training pictures, spread over the part."""
    positions = np.linspace(0, len(source.train) - 1, min(NUM_TRIED, len(source.train))).astype(int)
    images = torch.cat([plain_view(source.train.picture(position)[None], source.image_size) for position in positions])
    return torch.cat([teacher.network(chunk).logits for chunk in images.to(teacher.network.mean.device).split(64)])
