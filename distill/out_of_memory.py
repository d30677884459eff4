"""What to say when there is too little memory: how many pictures a process holds at once, and which keys of the recipe lower that."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import torch

from distill.build.notes import size_in_words
from distill.errors import DistillError
from distill.recipe import Recipe
from distill.running import Job


class TooLittleMemoryError(DistillError):
    """The device, or the host, can't hold what the run needs."""


@contextlib.contextmanager
def explained(recipe: Recipe, precision: str, job: Job) -> Iterator[None]:
    """Inside, being out of memory raises TooLittleMemoryError, with numbers and with what helps."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise TooLittleMemoryError(_in_words(recipe, precision, job, str(error))) from error


def _in_words(recipe: Recipe, precision: str, job: Job, said: str) -> str:
    parts, processes = recipe.train.accumulation, job.state.num_processes
    pictures = recipe.data.global_batch_size // parts // processes
    asked = re.search(r"[Tt]ried to allocate ([\d.]+ ?\w+)", said)
    what = f"out of memory on {job.state.device}" + (f", where {asked.group(1)} more were asked for" if asked else "")
    if job.state.device.type == "cuda":
        free, total = torch.cuda.mem_get_info(job.state.device)
        what += f" ({size_in_words(free)} of {size_in_words(total)} free)"
    shape = f"data.global_batch_size {recipe.data.global_batch_size} / train.accumulation {parts} / {processes} process(es)"
    lines = [f"{what}: a process holds {pictures} pictures at once ({shape}), computed in {precision}"]
    if pictures > 1:
        lines.append(
            f"train.accumulation={2 * parts} holds {pictures // 2} at once, and the optimizer sees the same batch (batch norm a smaller one)"
        )
    if precision in ("fp32", "fp64"):
        lines.append(
            f"train.precision=bf16 takes about half of {precision}'s memory for what a step keeps; it is emulated, and slow, on some devices"
        )
    lines.append("a smaller data.image_size helps most, and distill doctor RECIPE says before a run what it needs")
    return "\n  ".join(lines)
