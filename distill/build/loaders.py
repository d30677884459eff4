"""Builds the loaders of a run from its recipe."""

from __future__ import annotations

from collections.abc import Callable

import torch
from accelerate import Accelerator

from distill.build.plan import make_sampler
from distill.data.bad_pictures import BadPictures
from distill.data.loader import EvaluationLoader, TrainingLoader
from distill.data.mixing import Mixing
from distill.data.sources.base import DataSource, Part
from distill.data.views import Views
from distill.engine.runtime import cores_per_process
from distill.recipe import Recipe

Warn = Callable[[str], None]


def make_views(recipe: Recipe, source: DataSource) -> Views:
    """How this recipe varies the training pictures."""
    augment = recipe.data.augment
    red, green, blue = source.mean
    same = ("crop", "padding", "scale", "ratio", "flip", "auto", "num_ops", "magnitude", "brightness", "contrast", "saturation", "hue", "erase")
    return Views(
        size=source.image_size,
        **{name: getattr(augment, name) for name in same},
        erase_scale=augment.erase_scale,
        fill=(round(255 * red), round(255 * green), round(255 * blue)),
        mixing=Mixing(augment.mixup, augment.cutmix, augment.mix),
    )


def has_soft_labels(recipe: Recipe, source: DataSource) -> bool:
    """Whether training pictures have shares of several classes."""
    return make_views(recipe, source).mixes and recipe.data.labels == "given"


def training_loader(recipe: Recipe, source: DataSource, *, accelerator: Accelerator, warn: Warn = print) -> TrainingLoader:
    """warn: told of each picture that can't be read, where the recipe has others stand in for them."""
    data, views = recipe.data, make_views(recipe, source)
    return TrainingLoader(
        source.train,
        views,
        make_sampler(recipe, source, rank=accelerator.process_index, world_size=accelerator.num_processes),
        view_seed=data.view_seed,
        num_views=num_views(recipe),
        device=accelerator.device,
        workers=_num_workers(recipe, is_resident=source.train.pixels is not None and not views.one_by_one),
        num_classes=len(source.class_names),
        has_labels=data.labels == "given",
        bad_pictures=_bad_pictures(recipe, source.train, warn),
    )


def num_views(recipe: Recipe) -> int:
    """How many views of each picture a run shows."""
    return recipe.data.views or recipe.train.epochs


def evaluation_loader(
    recipe: Recipe, source: DataSource, part: Part, accelerator: Accelerator, warn: Warn = print, *, device: torch.device | None = None
) -> EvaluationLoader:
    """Shares a part among the processes; the pictures of a batch only decide speed, not results. device: None for the process's own."""
    return EvaluationLoader(
        part,
        source.image_size,
        batch_size=max(64, recipe.data.global_batch_size // accelerator.num_processes),
        device=device or accelerator.device,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        workers=_num_workers(recipe, is_resident=part.pixels is not None),
        bad_pictures=_bad_pictures(recipe, part, warn),
    )


def _bad_pictures(recipe: Recipe, part: Part, warn: Warn) -> BadPictures | None:
    return BadPictures(part, warn) if recipe.data.on_bad_image == "skip" else None


def _num_workers(recipe: Recipe, *, is_resident: bool) -> int:
    if is_resident:
        return 0
    if recipe.data.workers is not None:
        return recipe.data.workers
    return min(8, cores_per_process())
