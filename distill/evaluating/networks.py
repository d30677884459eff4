"""A network with its trained weights, its normalisation and its precision, as the run had it that is scored."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from distill import record
from distill.build.models import make_model
from distill.build.source import open_source
from distill.data.sources.base import DataSource
from distill.engine.network import Network
from distill.engine.runtime import DTYPES, resolve_precision
from distill.errors import DataError
from distill.evaluating.targets import Target
from distill.models.about_weights import about_weights
from distill.models.weights import WeightsReport
from distill.models.zoo import create_model, head_path
from distill.recipe import Student, Teacher
from distill.running import Job
from distill.teacher_store import TeacherStore, teacher_recipe

Normalisation = tuple[Sequence[float], Sequence[float]]  # mean and spread per channel, of pictures in [0, 1]


def build_network(target: Target, source: DataSource, job: Job) -> tuple[Network, str]:
    """(the network in eval mode on the job's device, where its weights are from). Raises RecipeError or DataError."""
    _refuse_class_count(target, len(source.class_names))
    own = source if target.has_own_data else None
    weights = _weights(target, own, job)
    return network_of(target, source.class_names, source.image_size, weights, own, job), weights or f"random, of seed {target.own.seed}"


def network_of(target: Target, classes: Sequence[str], image_size: int, weights: str | None, own: DataSource | None, job: Job) -> Network:
    """In eval mode on the job's device. classes, image_size: the data's. weights: a file, folder or published name; None for random ones. own: the
    data that it was trained on, where they are open already."""
    entry, recipe = target.network, target.own
    model, report = loaded_model(target, classes, image_size, weights, job)
    mean, std = normalisation_of(target, own, job, report)
    precision = resolve_precision(recipe.train.precision, job.state.device)
    network = Network(
        model,
        mean=mean,
        std=std,
        aliases=entry.features,
        autocast_dtype=DTYPES[precision] if precision in ("bf16", "fp16") else None,
        channels_last=recipe.train.channels_last,
        image_size=getattr(entry, "image_size", None),
    )
    memory_format = torch.channels_last if recipe.train.channels_last else torch.contiguous_format
    network = network.to(job.state.device, torch.float64 if precision == "fp64" else None).to(memory_format=memory_format)
    return network.eval()


def loaded_model(target: Target, classes: Sequence[str], image_size: int, weights: str | None, job: Job) -> tuple[nn.Module, WeightsReport | None]:
    """The plain network on the CPU, and what was loaded into it; a random teacher is the same one again, as in training."""
    if weights is not None:
        _refuse_other_model(weights, target.network.model, target.name)
    try:
        return make_model(_as_trained(target), target.role, classes, job.catalogue, image_size=image_size, seed=target.own.seed, weights=weights)
    except DataError:
        if weights is not None:
            _refuse_other_class_count(weights, target, len(classes), job)
        raise


def normalisation_of(target: Target, own: DataSource | None, job: Job, report: WeightsReport | None) -> Normalisation:
    """By what the network's pictures were normalised in training."""
    entry = target.network
    known = (report.mean, report.std) if report and report.mean else None
    if known is None and target.role == "student" and entry.weights is not None:
        about = about_weights(entry.weights, entry.model)  # it went on training with what those weights expect
        known = (about.mean, about.std) if about.mean else None
    if known is None and not (entry.mean and entry.std):
        known = _of_source(target, own, job)
    mean, std = known or (None, None)
    return entry.mean or mean, entry.std or std


def _as_trained(target: Target) -> Student | Teacher:
    """The recipe's section, but for what a run did before it trained."""
    if target.role == "student":
        return target.network.model_copy(update={"new_head": False})
    return target.network if target.file is None else target.network.model_copy(update={"weights": str(target.file)})


def _of_source(target: Target, own: DataSource | None, job: Job) -> Normalisation:
    """By the data that it was trained on, whatever it is scored on."""
    try:
        own = own or open_source(target.own.data, job.catalogue)
    except DataError:
        own = job.catalogue.get("sources", target.own.data.source)
        text = f"{target.name}: the data of its training are not here; pictures are normalised as is usual for data.source={target.own.data.source}"
        job.console.print(f"note: {text}", style="yellow", soft_wrap=True)
    return own.mean, own.std


def _weights(target: Target, own: DataSource | None, job: Job) -> str | None:
    """A file, folder or published name; None for a teacher whose weights are random."""
    if target.file is not None:
        return str(target.file)
    if target.role == "student":
        return str(target.run.path / record.WEIGHTS_FILE)
    if (named := target.own.teacher.weights) != "train":
        return None if named == "random" else named
    store = TeacherStore()
    path = store.path(teacher_recipe(target.own, job.catalogue), own or open_source(target.own.data, job.catalogue))
    if store.find(path) is None:
        raise DataError(
            f"{target.name}: its teacher is not there any more ({path}); set DISTILL_CACHE to where it is kept, or name its weight file and add "
            f"--role teacher --recipe {target.run.path}"
        )
    return str(path / record.WEIGHTS_FILE)


def _refuse_class_count(target: Target, num_classes: int) -> None:
    known = target.run.data.get("num_classes") if target.run is not None else None
    if known not in (None, num_classes):
        raise DataError(f"{target.name} knows {known} classes, and the data has {num_classes}: name the data of its classes with data.KEY=VALUE")


def _refuse_other_model(weights: str, model_name: str, name: str) -> None:
    """By a safetensors file's header, where it says whose weights they are."""
    with _header(weights, name) as file:
        written = (file.metadata() or {}).get("model") if file else None
    if written is not None and written != model_name:
        raise DataError(
            f"{name}: the file says that its weights are of {written!r}, and the recipe's model is {model_name}: name that model's recipe"
        )


def _refuse_other_class_count(weights: str, target: Target, num_classes: int, job: Job) -> None:
    """By a safetensors file's header, where what it holds does not fit; nothing is said if that is not why."""
    entry = target.network
    options: dict[str, Any] = {"norm": entry.norm, "stem": entry.stem, "arguments": entry.arguments, "plugins": job.catalogue.models}
    with torch.random.fork_rng(devices=[]):
        head = f"{head_path(create_model(entry.model, num_classes=2, **options))}.weight"
    with _header(weights, target.name) as file:
        found = [key for key in file.keys() if key == head or key.endswith(f".{head}")] if file else []  # noqa: SIM118 - it is no dictionary
        shape = file.get_slice(found[0]).get_shape() if len(found) == 1 else []
    if len(shape) == 2 and shape[0] != num_classes:
        raise DataError(f"{target.name}: the file's weights know {shape[0]} classes, and the data has {num_classes}: name the data of its classes")


@contextlib.contextmanager
def _header(weights: str, name: str) -> Iterator[Any]:
    """The opened safetensors file; None for anything else. Raises DataError for a damaged one."""
    path = Path(weights).expanduser()
    path = path / record.WEIGHTS_FILE if path.is_dir() else path
    if path.suffix != ".safetensors" or not path.is_file():
        yield None
        return
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise DataError(f"{name}: {path} is damaged, cut short or not a safetensors file ({error})") from error
