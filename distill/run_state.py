"""A run's checkpoints in its folder: what they say beside the weights, whether a run may go on from one, and what is done on a full disk."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from accelerate.utils import broadcast_object_list
from pydantic import BaseModel, NonNegativeFloat, NonNegativeInt

from distill import record
from distill.build.pieces import Pieces
from distill.build.plan import plan_run
from distill.checkpoints import Checkpoint, CheckpointFolder, Writer
from distill.data.sources.base import DataSource
from distill.engine.saving import Saving
from distill.errors import DataError, DistillError, RecipeError
from distill.recipe import Recipe
from distill.recipe_files import WHERE_WEIGHTS_ARE, differences
from distill.running import Job, as_data_error


def make_saving(recipe: Recipe, folder: record.RunFolder, source: DataSource, pieces: Pieces, job: Job, precision: str) -> Saving:
    """Where and when the run is saved, and the checkpoint that it goes on from, if there is one. Takes metrics.jsonl back to that moment.

    To be called when the run begins: from then on its seconds are counted. Raises RecipeError or DataError if it can't go on from that checkpoint, or
    if the disk has no room for what the run writes.
    """
    checkpoints, identity = CheckpointFolder(folder.path / record.CHECKPOINTS), _identity(recipe, source, pieces, job, precision)
    began = time.perf_counter()
    start = _agreed(lambda: _start(checkpoints, folder, recipe, source, pieces, identity, job), job)

    def save(step: int, epoch: int, state: Mapping[str, Any], writers: Mapping[str, Writer], is_best: bool) -> None:
        try:
            whole = {**identity, **state, "metrics_bytes": folder.metrics_size(), "seconds": seconds_before(start) + time.perf_counter() - began}
            checkpoints.save(step, epoch, whole, writers, is_best=is_best, keep=recipe.train.keep_checkpoints)
        except OSError as error:
            what = f"the checkpoint of step {step} can't be written to {checkpoints.path}: {error.strerror or error}"
            needs = f"it needs {_needs(recipe, pieces, checkpoints)}; training goes on, and the checkpoint before is as it was"
            job.console.print(f"{what}; {needs}", style="yellow", soft_wrap=True)

    return Saving(save, recipe.train.checkpoint_every_steps, recipe.train.checkpoint_every_minutes, start)


def _identity(recipe: Recipe, source: DataSource, pieces: Pieces, job: Job, precision: str) -> dict[str, Any]:
    """What must be the same when the run goes on, and what should be."""
    decoder = {"decoder": source.decoder} if source.decoder else {}
    return {
        "recipe": recipe.model_dump(mode="json"),
        "data": source.fingerprint(),
        "teacher": None if pieces.teacher is None else pieces.teacher.checksum,
        "environment": {
            "precision": precision,
            "device": job.state.device.type,
            "processes": job.state.num_processes,
            "torch": torch.__version__,
            **decoder,
        },
    }


def _agreed(find: Callable[[], Checkpoint | None], job: Job) -> Checkpoint | None:
    """What the first process finds, told to all, also if it can't be used."""
    outcome: list[Any] = [None]
    if job.is_main:
        try:
            outcome = [find()]
        except OSError as error:
            outcome = [as_data_error(error)]
        except DistillError as error:
            outcome = [error]
    start = broadcast_object_list(outcome)[0]
    if isinstance(start, DistillError):
        start.is_shared = True
        raise start
    return start


def _start(
    checkpoints: CheckpointFolder, folder: record.RunFolder, recipe: Recipe, source: DataSource, pieces: Pieces, identity: Mapping[str, Any], job: Job
) -> Checkpoint | None:
    require_space(recipe, pieces, folder)
    (folder.path / record.DIVERGED_FILE).unlink(missing_ok=True)  # if it comes to that again, it is written again
    start, complaints = checkpoints.newest()
    for complaint in complaints:
        job.console.print(f"{complaint}; an older one is used", style="yellow", soft_wrap=True)
    if start is None:
        checkpoints.start_from(None)
        folder.cut_metrics(0)
        (folder.path / record.TIMING_FILE).unlink(missing_ok=True)
        return None
    _require_same(start, recipe, source, identity)
    checkpoints.start_from(start)
    if lack := folder.cut_metrics(start.state["metrics_bytes"]):
        job.console.print(f"{lack}; the weights are as they were, and training goes on", style="yellow", soft_wrap=True)
    job.console.print(f"going on from {start.path.name}", style="bold")
    then, now = start.state["environment"], identity["environment"]
    if changed := [f"{name} {then.get(name)} then, {value} now" for name, value in now.items() if then.get(name) != value]:
        job.console.print(
            f"note: {'; '.join(changed)}: from here on the run is not, bit for bit, the one without a break", style="yellow", soft_wrap=True
        )
    return start


class _Recent(BaseModel, allow_inf_nan=False):
    rows: list[list[list[float]]]
    norms: list[float]
    dtype: Literal["float32", "float64"]


class _State(BaseModel, allow_inf_nan=False):
    """What a checkpoint says in words and numbers."""

    recipe: Recipe
    data: str
    teacher: str | None
    environment: dict[str, Any]
    best: float | None
    recent: _Recent
    metrics_bytes: NonNegativeInt
    seconds: NonNegativeFloat = 0.0


def _require_same(start: Checkpoint, recipe: Recipe, source: DataSource, identity: Mapping[str, Any]) -> None:
    state, plan = start.state, plan_run(recipe, source, world_size=1)
    try:
        old = _State.model_validate(state).recipe
        if start.step > plan.num_steps or start.epoch > plan.num_epochs:
            raise ValueError(f"step {start.step} of {plan.num_steps}")
    except ValueError as error:  # pydantic's is one, and says in its second line which key it is about
        what = ": ".join(str(error).splitlines()[1:3]) or str(error)
        raise DataError(f"{start.path / 'state.json'} is not what a run writes ({what}); remove it to go on from an older one") from error
    if changed := differences(old, recipe, apart_from=WHERE_WEIGHTS_ARE):
        raise RecipeError(f"checkpoint {start.path} is of another recipe:\n  " + "\n  ".join(changed))
    if state["data"] != identity["data"]:
        raise DataError(f"the pictures are not those that {start.path} was trained on (files, labels or classes have changed); set run_name=OTHER")
    if state["teacher"] != identity["teacher"]:
        raise DataError(f"the teacher's weights are not those that {start.path} was trained with; bring them back, or set run_name=OTHER")


def seconds_before(start: Checkpoint | None) -> float:
    """How long the run had taken when the checkpoint was written."""
    return start.state.get("seconds", 0.0) if start is not None else 0.0


def require_space(recipe: Recipe, pieces: Pieces, folder: record.RunFolder) -> None:
    """Raises DataError if the disk has no room for what the run writes."""
    there = sum(path.stat().st_size for path in (folder.path / record.CHECKPOINTS).glob("*/*"))  # of this run, which goes on
    needed, free = bytes_written(recipe, pieces) - there, shutil.disk_usage(folder.path).free
    if free < needed:
        raise DataError(
            f"{folder.path} has {_megabytes(free)} free, and this run writes up to {_megabytes(needed)} more (checkpoints of "
            f"{_megabytes(checkpoint_bytes(recipe, pieces))}); free some, or set runs_dir=FOLDER on another disk or train.keep_checkpoints=1"
        )


def bytes_written(recipe: Recipe, pieces: Pieces) -> int:
    """At most, while training: the kept checkpoints, the best, the one being written, and the student."""
    return (recipe.train.keep_checkpoints + 2) * checkpoint_bytes(recipe, pieces) + _bytes(pieces.distiller.student.state_dict().values())


def checkpoint_bytes(recipe: Recipe, pieces: Pieces) -> int:
    """Size of one checkpoint: weights, what the optimizer keeps, and the moving average."""
    trained = [parameter for parameter in pieces.distiller.parameters() if parameter.requires_grad]
    copies = 2 if recipe.train.optimizer == "adamw" else int(recipe.train.momentum > 0)
    average = _bytes(pieces.distiller.student.state_dict().values()) if recipe.train.ema_decay is not None else 0
    return _bytes(pieces.distiller.state_dict().values()) + copies * _bytes(trained) + average


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _needs(recipe: Recipe, pieces: Pieces, checkpoints: CheckpointFolder) -> str:
    needs = f"{_megabytes(checkpoint_bytes(recipe, pieces))}, {_megabytes(bytes_written(recipe, pieces))} with those that are kept"
    with contextlib.suppress(OSError):  # the whole disk may be gone
        needs += f", and {_megabytes(shutil.disk_usage(checkpoints.path.parent).free)} are free"
    return needs


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
