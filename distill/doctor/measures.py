"""What the doctor measures on one real batch: features, trained parts, gradients, memory and speed. The pieces are its own, and are spoiled by it."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from distill.build.pieces import Pieces
from distill.build.teachers import each_teacher
from distill.data.sources.base import DataSource
from distill.doctor.findings import Findings, size
from distill.engine.distiller import Distiller
from distill.engine.gradients import auto_weights, measure_gradients
from distill.engine.optim import set_learning_rate
from distill.engine.timing import synchronise
from distill.engine.trainer import Trainer
from distill.recipe import Recipe
from distill.recipe_losses import Schedule
from distill.structures import Batch, Outputs

_SECONDS_MEASURED = 2.0  # for each of loader, teacher and student
_LARGE, _SMALL = 20, 1e-3  # of cross-entropy's gradient: outside of this a term drowns the labels, or does nothing
_NEARLY_FULL = 0.9


@torch.no_grad()
def features(pieces: Pieces, batch: Batch) -> list[dict[str, Any]]:
    """Shape, without the batch axis, of each feature that a loss asks for, and of the logits."""
    small = Batch(*(tensor[:2] for tensor in batch.tensors))
    pieces.distiller.eval()
    student, teacher = pieces.distiller.student(small.images), pieces.teacher(small) if pieces.teacher else None
    pieces.distiller.train()
    return [
        {"layer": name, "student": list(tensor.shape[1:]), "teacher": list(_tensors(teacher)[name].shape[1:]) if teacher else None}
        for name, tensor in _tensors(student).items()
    ]


def _tensors(outputs: Outputs) -> dict[str, Tensor]:
    return {**outputs.features, "logits": outputs.logits}


def losses_in_words(distiller: Distiller) -> list[dict[str, Any]]:
    """For each loss the layers that it uses, and what it trains of its own."""
    return [
        {"loss": label, "type": type(loss).__name__, "layers": list(loss.layers), "trains": list(_trained_parts(loss))}
        for label, loss in distiller.each_loss()
    ]


def _trained_parts(module: nn.Module, prefix: str = "") -> Iterator[str]:
    for name, parameter in module.named_parameters(recurse=False):
        shape = "x".join(map(str, parameter.shape))
        yield f"{prefix}{name} ({f'{shape} numbers' if shape else 'one number'})"
    for name, child in module.named_children():
        if type(child) in (nn.ModuleDict, nn.ModuleList, nn.ParameterList, nn.ParameterDict):
            yield from _trained_parts(child, f"{prefix}{name}.")
        elif parameters := list(child.parameters()):
            widths = [_widths(part) for part in child.modules() if _widths(part)]
            way = f", {widths[0][0]} -> {widths[-1][1]} channels" if widths else ""
            yield f"{prefix}{name} ({type(child).__name__}{way}, {sum(parameter.numel() for parameter in parameters):,} parameters)"


def _widths(module: nn.Module) -> tuple[int, int] | None:
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    return (module.in_channels, module.out_channels) if isinstance(module, nn.modules.conv._ConvNd) else None


def terms(recipe: Recipe, trainer: Trainer, batch: Batch, teacher: Outputs | None, found: Findings) -> list[dict[str, Any]]:
    """Each term at the first step: value, weight, and its gradient on the student beside that of plain cross-entropy."""
    distiller = trainer.trained.distiller
    distiller.set_step(0)
    measured = measure_gradients(distiller, batch, teacher, trainer.accelerator, trainer.scaler.get_scale())
    if distiller.auto:
        with found.attempt("weights"):
            distiller.balance(auto_weights(distiller.auto, measured))
    with torch.no_grad():
        values = {label: term.item() for label, term in distiller.terms(batch, teacher)[1].items()}
    rows = []
    for label, (norm, cosine) in measured.terms.items():
        weight, reference = float(distiller.weight(label)), measured.cross_entropy_norm
        ratio = weight * norm / reference if reference > 0 else math.inf
        rows.append({"term": label, "value": values[label], "weight": weight, "gradient_norm": norm, "weighted_norm": weight * norm})
        rows[-1] |= {"ratio": ratio, "cosine": cosine}
        _judge(label, recipe.losses[label].weight, rows[-1], reference, found)
    return rows


def _judge(label: str, entry: float | str | Schedule, row: dict[str, Any], reference: float, found: Findings) -> None:
    """A weight that moves is judged where it is largest."""
    if not (math.isfinite(row["value"]) and math.isfinite(row["gradient_norm"])):
        found.problem(f"losses.{label}: its value is {row['value']:g} and its gradient's norm {row['gradient_norm']:g} in the first step", 1)
        return
    weight = max(entry.ends) if isinstance(entry, Schedule) else row["weight"]
    ratio = weight * row["gradient_norm"] / reference if reference > 0 else math.inf
    if ratio > _LARGE:
        found.warn(
            f"losses.{label}: with weight {weight:g} its gradient is {ratio:,.0f} times cross-entropy's, which then hardly counts; try a weight of "
            f"{weight / ratio:.2g}, or auto(1), which gives it the same gradient"
        )
    elif ratio < _SMALL:
        if ratio == 0:
            found.warn(f"losses.{label}: weight {weight:g}, gradient {row['gradient_norm']:g}: it teaches nothing in the first step; is that meant?")
            return
        fix = f"try a weight of {weight / ratio:.2g}, or auto(1), which gives it the same gradient"
        found.warn(f"losses.{label}: with weight {weight:g} its gradient is {ratio:.2g} of cross-entropy's: it changes next to nothing; {fix}")


def forecast(recipe: Recipe, pieces: Pieces, source: DataSource, batch: Batch, num_processes: int) -> dict[str, int]:
    """Bytes that a process of this run needs, by what for; without what libraries take for themselves."""
    distiller, together = pieces.distiller, recipe.data.global_batch_size // recipe.train.accumulation
    trained = _bytes(parameter for parameter in distiller.parameters() if parameter.requires_grad)
    copies = 2 if recipe.train.optimizer == "adamw" else int(recipe.train.momentum > 0)
    teachers = [its.teacher.network for _, _, its in each_teacher(recipe, pieces)]
    extra = (loss.extra_bytes(together if loss.batch_coupled else together // num_processes) for _, loss in distiller.each_loss())
    found = {
        "student and losses": _bytes((*distiller.parameters(), *distiller.buffers())),
        "gradients": trained,
        f"optimizer ({recipe.train.optimizer})": copies * trained,
        "moving average": 0 if recipe.train.ema_decay is None else _bytes(distiller.student.state_dict().values()),
        "teacher": sum(_bytes((*network.parameters(), *network.buffers())) for network in teachers),
        f"activations of {together // num_processes} pictures": _activation_bytes(pieces, batch, together // num_processes),
        "losses at their peak": sum(extra),
        "resident pictures": _resident_bytes(source, distiller.student.mean.device),
    }
    return {name: num_bytes for name, num_bytes in found.items() if num_bytes}


def check_memory(what: str, needs: dict[str, int], free: int | None, num_processes: int, found: Findings) -> None:
    """num_processes: that share this memory."""
    needed = num_processes * sum(needs.values())
    if free is None or needed <= _NEARLY_FULL * free:
        return
    largest = max(needs, key=needs.__getitem__)
    fix = "a smaller data.global_batch_size or a larger train.accumulation lowers it"
    message = f"{what} needs about {size(needed)} of memory, most of it for {largest}, and {size(free)} are free; {fix}"
    if needed > free:
        found.problem(message, 1)
    else:
        found.warn(message)


def _activation_bytes(pieces: Pieces, batch: Batch, batch_size: int) -> int:
    """What forward keeps for backward, from one small batch and one of twice its size: what does not grow with the batch, such as half-precision
    copies of the weights, is counted once."""
    few = max(1, min(4, len(batch.labels) // 2))
    once = _saved_bytes(pieces, Batch(*(tensor[:few] for tensor in batch.tensors)))
    if len(batch.labels) < 2 * few:
        return once * batch_size // few
    twice = _saved_bytes(pieces, Batch(*(tensor[: 2 * few] for tensor in batch.tensors)))
    return max(0, 2 * once - twice) + (twice - once) * batch_size // few


def _saved_bytes(pieces: Pieces, batch: Batch) -> int:
    own = {tensor.untyped_storage().data_ptr() for tensor in (*pieces.distiller.parameters(), *pieces.distiller.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    teacher = pieces.teacher(batch) if pieces.teacher else None
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = pieces.distiller(batch, teacher)
    del output  # until here it keeps all that was saved, so that no place is counted for two tensors
    return sum(kept.values())


def _resident_bytes(source: DataSource, device: torch.device) -> int:
    """On a GPU only the training pictures live there."""
    parts = (source.train, source.val, source.test) if device.type == "cpu" else (source.train,)
    return _bytes(part.pixels for part in parts if part.pixels is not None)


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def speed(trainer: Trainer, batches: Iterator[Batch], batch: Batch, workers: int | None) -> dict[str, Any]:
    """Pictures a second and process of loader, teacher and student, each working alone, and in a sentence which of them sets the pace."""
    device, num_images = trainer.accelerator.device, len(batch.labels)
    answer = trainer.teacher(batch) if trainer.teacher else None
    set_learning_rate(trainer.optimizer, 0.0)

    def step() -> None:
        trainer.scaler.scale(trainer.distiller(batch, answer).loss).backward()
        trainer.optimizer.step()
        trainer.optimizer.zero_grad(set_to_none=True)

    works = {"loader": lambda: next(batches), "teacher": (lambda: trainer.teacher(batch)) if trainer.teacher else None, "student": step}
    seconds_measured = _SECONDS_MEASURED if trainer.accelerator.num_processes == 1 else 0.0  # all must take part in as many steps
    rates = {name: num_images / _seconds(work, device, seconds_measured) for name, work in works.items() if work}
    return {
        **{f"{name}_images_per_second": round(rate, 1) for name, rate in rates.items()},
        "workers": workers,
        "advice": advice(rates, workers, device),
    }


def _seconds(work: Callable[[], object], device: torch.device, at_least: float) -> float:
    """Mean of the calls that fit."""
    work()  # the first call chooses algorithms, allocates, and starts processes that read pictures
    synchronise(device)
    started = time.perf_counter()
    for number in itertools.count(1):
        work()
        if time.perf_counter() - started >= at_least:
            synchronise(device)
            return (time.perf_counter() - started) / number
    raise AssertionError


def advice(rates: dict[str, float], workers: int | None, device: torch.device) -> str:
    """Which part sets the pace and what would help. rates: pictures a second of "loader", "student" and perhaps "teacher".

    workers: None where the pictures are all in memory, and no worker reads any.
    """
    networks = 1 / sum(1 / rate for name, rate in rates.items() if name != "loader")
    if workers and rates["loader"] < networks:
        return (
            f"The loader sets the pace: it gives {rates['loader']:,.0f} images/s and the networks could take {networks:,.0f}; more data.workers (now "
            f"{workers}), a faster disk, or pictures stored near the size that training uses would help."
        )
    shares = {name: 1 / rate for name, rate in rates.items() if name != "loader" or not workers}
    slowest = max(shares, key=shares.__getitem__)
    share = f"{shares[slowest] / sum(shares.values()):.0%} of each step"
    gpu = " or a GPU" if device.type == "cpu" else " or more GPUs"
    helps = {
        "student": f"a smaller student, smaller pictures (data.image_size){gpu} would help",
        "teacher": f"a smaller teacher, smaller pictures (data.image_size){gpu} would help",
        "loader": f"{'more cores' if workers is None else 'data.workers=2 or more'}, a simpler data.augment or smaller pictures would help",
    }
    return f"The {slowest} sets the pace: it takes {share}; {helps[slowest]}."
