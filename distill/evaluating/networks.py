"""A network with its trained weights, its normalisation and its precision, as the run had it that is scored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from distill import record
from distill.build.source import open_source
from distill.data.sources.base import DataSource
from distill.engine.network import Network
from distill.engine.runtime import DTYPES, resolve_precision
from distill.errors import DataError, RecipeError
from distill.evaluating.targets import Target
from distill.models.weights import WeightsReport, load_weights
from distill.models.zoo import create_model, head_path
from distill.running import Job
from distill.teacher_store import TeacherStore, teacher_recipe

Normalisation = tuple[Sequence[float], Sequence[float]]  # mean and spread per channel, of pictures in [0, 1]


def build_network(target: Target, source: DataSource, job: Job) -> tuple[Network, str]:
    """(the network in eval mode on the job's device, where its weights are from). Raises RecipeError or DataError."""
    num_classes = len(source.class_names)
    _refuse_class_count(target, num_classes)
    own = source if target.has_own_data else None
    weights = _weights(target, own, job)
    return network_of(target, num_classes, weights, own, job), weights or f"random, of seed {target.own.seed}"


def network_of(target: Target, num_classes: int, weights: str | None, own: DataSource | None, job: Job) -> Network:
    """In eval mode on the job's device. weights: a file, folder or published name; None for random ones. own: the data that it was trained on, where
    they are open already."""
    entry, recipe = target.network, target.own
    model, report = loaded_model(target, num_classes, weights)
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


def loaded_model(target: Target, num_classes: int, weights: str | None) -> tuple[nn.Module, WeightsReport | None]:
    """The plain network on the CPU, and what was loaded into it."""
    entry = target.network
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(target.own.seed)  # as in training: a random teacher is the same one again
        model = create_model(entry.model, num_classes=num_classes, norm=entry.norm, stem=entry.stem, arguments=entry.arguments)
    if weights is None:
        return model, None
    _refuse_other_file(weights, entry.model, model, num_classes, target.name)
    return model, load_weights(model, entry.model, weights, num_classes=num_classes, role=target.role)


def normalisation_of(target: Target, own: DataSource | None, job: Job, report: WeightsReport | None) -> Normalisation:
    """By what the network's pictures were normalised in training."""
    entry = target.network
    known = (report.mean, report.std) if report and report.mean else None
    if known is None and target.role == "student" and entry.weights is not None:
        known = published_normalisation(entry.weights, entry.model)  # it went on training with what those weights expect
    if known is None and not (entry.mean and entry.std):
        known = _of_source(target, own, job)
    mean, std = known or (None, None)
    return entry.mean or mean, entry.std or std


def published_normalisation(weights: str, model_name: str) -> Normalisation | None:
    """What the pictures of published weights were normalised by, without downloading them; None for files and folders, which do not say.

    Raises RecipeError for weights that do not exist.
    """
    library, _, tag = weights.partition(":")
    if library not in ("torchvision", "timm"):
        return None
    try:
        if library == "torchvision":
            from torchvision.models import get_model_weights

            view = get_model_weights(model_name.rpartition("/")[2])[tag.rpartition(".")[2]].transforms()
        else:
            import timm

            view = timm.get_pretrained_cfg(tag)
        return tuple(view.mean), tuple(view.std)
    except Exception as error:  # each library has its own for a name that it does not know
        raise RecipeError(f"student.weights={weights}: there are no such weights of {model_name} ({error})") from error


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
    path = store.path(teacher_recipe(target.own, job), own or open_source(target.own.data, job.catalogue))
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


def _refuse_other_file(weights: str, model_name: str, model: nn.Module, num_classes: int, name: str) -> None:
    """By a safetensors file's header: whose weights it says they are, and how many classes they know. What else does not fit is found on loading."""
    path = Path(weights).expanduser()
    path = path / record.WEIGHTS_FILE if path.is_dir() else path
    if path.suffix != ".safetensors" or not path.is_file():
        return
    try:
        with safe_open(path, framework="pt") as file:
            written, head = (file.metadata() or {}).get("model"), f"{head_path(model)}.weight"
            found = [key for key in file.keys() if key == head or key.endswith(f".{head}")]  # noqa: SIM118 - it is no dictionary
            shape = file.get_slice(found[0]).get_shape() if len(found) == 1 else []
    except (SafetensorError, OSError) as error:
        raise DataError(f"{name}: {path} is damaged, cut short or not a safetensors file ({error})") from error
    if written is not None and written != model_name:
        raise DataError(
            f"{name}: the file says that its weights are of {written!r}, and the recipe's model is {model_name}: name that model's recipe"
        )
    if len(shape) == 2 and shape[0] != num_classes:
        raise DataError(f"{name}: the file's weights know {shape[0]} classes, and the data has {num_classes}: name the data of its classes")
