"""What is compiled: decided from device and length of the run, then tried, measured, and said."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from accelerate.utils import broadcast_object_list

from distill.build.batches import made_up_batch
from distill.build.loaders import has_soft_labels, num_views
from distill.build.pieces import Pieces
from distill.build.plan import plan_run
from distill.build.teachers import each_teacher
from distill.data.sources.base import DataSource
from distill.engine.compiling import Compiled, compile_distiller, compile_teacher, pictures_to_pay
from distill.engine.teacher import parts_together
from distill.engine.teacher_cache import CachedTeacher
from distill.recipe import OneOfSeveral, Recipe
from distill.running import Job
from distill.structures import Batch

# (seconds to compile, speed-up) of a ResNet-50 that answers, to decide whether it is tried; then it is measured, and dropped where it is not faster.
# CPU: two cores, 64 pictures of 64 px (18 s, 1.02; with 128 of 28 px 1.34, with 32 of 112 px 0.79).
# CUDA: timm's published table (results/benchmark-infer, RTX 4090: 5,088 and 8,237 images/s), and a minute to compile.
_EXPECTED = {"cpu": (20.0, 1.02), "cuda": (60.0, 1.62)}

Decision = dict[str, Any]


def compile_what_pays(
    recipe: Recipe,
    source: DataSource,
    pieces: Pieces,
    kept: Mapping[str, CachedTeacher | None],
    job: Job,
    *,
    teacher_seconds: Mapping[str, float],
    before: Mapping[str, Any] | None = None,
) -> dict[str, Decision]:
    """Compiles each teacher where that takes less time than it saves, and with fast=compile student and losses too, whatever it takes.

    kept, teacher_seconds: by role, its kept answers and its time for one picture, where these are known. before: what was decided when the run began,
    by role and of "student". Returns the decisions under these names.
    """
    num_pictures = recipe.data.global_batch_size // recipe.train.accumulation // job.state.num_processes
    batch = made_up_batch(source, num_pictures, job.state.device, soft_labels=has_soft_labels(recipe, source))
    before, made = before or {}, {}
    for role, own, its in each_teacher(recipe, pieces):
        together = made_up_batch(source, num_pictures * parts_together(recipe.train.accumulation, batch.images), job.state.device)
        known = {"seconds": teacher_seconds.get(role), "before": before.get(role)}
        made[role] = _teacher_decided(role, own, source, its, kept.get(role), job, together, **known)
    if before.get("student", {"is_compiled": recipe.fast == "compile"})["is_compiled"]:
        answers = pieces.teacher(batch) if pieces.teacher else None
        seen = plan_run(recipe, source, job.state.num_processes).images_seen(recipe.data.global_batch_size) // job.state.num_processes
        made["student"] = _tried("student and losses", lambda: compile_distiller(pieces.distiller, batch, answers), seen, job)
        for _, _, its in each_teacher(recipe, pieces) if made["student"]["is_compiled"] else ():
            its.teacher.network.hand_pixels_to(None)  # its code normalises for itself
    else:
        made["student"] = dict(before.get("student", {"is_compiled": False, "why": f"fast={recipe.fast}; fast=compile compiles it"}))
    return made


def _teacher_decided(
    role: str,
    recipe: Recipe,
    source: DataSource,
    pieces: Pieces,
    kept: CachedTeacher | None,
    job: Job,
    batch: Batch,
    *,
    seconds: float | None,
    before: Decision | None,
) -> Decision:
    """Of the only teacher of these."""
    asked, teacher = _pictures_to_ask(recipe, source, kept, job), pieces.teacher
    why_not = broadcast_object_list([_why_not(recipe, asked, seconds, job.state.device.type)])[0]  # each has measured its own seconds
    if (before or {"is_compiled": why_not is None})["is_compiled"]:
        drop = None if before or recipe.fast == "compile" else lambda: setattr(teacher, "answer", teacher.network)
        return _tried(role, lambda: compile_teacher(teacher, batch), asked, job, drop=drop)
    made = dict(before or {"is_compiled": False, "why": why_not})
    job.say(f"{role}: not compiled: {made['why']}")
    return made


def _pictures_to_ask(recipe: Recipe, source: DataSource, kept: CachedTeacher | None, job: Job) -> int:
    """How many pictures a process will show the live teacher, if it begins now."""
    plan, num_processes = plan_run(recipe, source, job.state.num_processes), job.state.num_processes
    if kept is None:
        return plan.images_seen(recipe.data.global_batch_size) // num_processes
    views = min(num_views(recipe), plan.num_epochs)
    there = sum(kept.folder.num_written(view) for view in kept.folder.views() if view < views)
    return max(0, views * len(source.train) - there) // num_processes


def _why_not(recipe: Recipe, asked: int, seconds: float | None, device: str) -> str | None:
    """Why the teacher is not compiled; None if it is."""
    if isinstance(recipe.teacher, OneOfSeveral) and recipe.answers == "sampled":
        return "it is asked for another number of pictures in each step, those for which it is drawn"
    if recipe.fast != "auto":
        return None if recipe.fast == "compile" else "fast=off"
    if device not in _EXPECTED or seconds is None:
        return f"not known to pay on {device}; fast=compile compiles it"
    seconds_to_compile, speed_up = _EXPECTED[device]
    needed = pictures_to_pay(seconds_to_compile, seconds, seconds / speed_up)
    if asked >= needed:
        return None
    what = f"about {seconds_to_compile:.0f} s for a speed-up of about {speed_up:g} pay from {needed:,.0f} pictures on"
    return f"{what}, and it will be asked for {asked:,}; fast=compile compiles it all the same"


def _tried(what: str, compiling: Callable[[], Compiled], num_pictures: int, job: Job, *, drop: Callable[[], None] | None = None) -> Decision:
    """Compiles, and says what came of it; where that can't be done, what was there goes on to work. drop: goes back to that where the first process
    finds nothing gained; None to use what is compiled in any case."""
    job.say(f"{what}: compiling")
    try:
        found, why = compiling(), None
    except Exception as error:  # no compiler here, or a network that it can't do: that has many names
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
        found, why = None, f"torch.compile can't ({type(error).__name__}: {reason[:200]}); not compiled it computes the same, only slower"
    is_used = found is not None
    if drop is not None:
        is_used = broadcast_object_list([is_used and not math.isinf(found.break_even)])[0]
        if not is_used:
            drop()
    if found is None:
        job.console.print(f"{what}: {why}", style="yellow", soft_wrap=True)
        return {"is_compiled": False, "why": why}
    why = _in_words(found, num_pictures, is_used)
    job.say(f"{what}: {why}")
    return {"is_compiled": is_used, "why": why}


def _in_words(found: Compiled, num_pictures: int, is_used: bool) -> str:
    took = f"compiled in {found.seconds_to_compile:.0f} s, {1e3 * found.eager:.3g} -> {1e3 * found.compiled:.3g} ms a picture"
    if math.isinf(found.break_even):
        return f"{took}: not faster here, {'fast=auto leaves it out' if is_used else 'so it is not used'}"
    return f"{took}: pays from {found.break_even:,.0f} pictures on, and this run has {num_pictures:,}"
