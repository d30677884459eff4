"""The student of a finished run as it is handed over: plain float32 on the CPU, with all that must be known of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from distill import record
from distill.build.loaders import evaluation_loader
from distill.build.source import open_source
from distill.data.loader import EvaluationLoader
from distill.data.random_rows import permutation
from distill.data.sources.base import DataSource
from distill.engine.network import Network
from distill.engine.runtime import make_accelerator
from distill.errors import DataError, RecipeError
from distill.evaluating.networks import loaded_model, normalisation_of
from distill.evaluating.options import Words
from distill.evaluating.targets import Target, read_targets
from distill.handover.config import Config, is_export
from distill.models.saved import as_timm, is_saved
from distill.models.zoo import Builders
from distill.places import expanded
from distill.report.runs import Run
from distill.running import Job

CPU = torch.device("cpu")
_MOST_VAL, _CALIBRATION = 2000, 512  # pictures
_TEACHERS_RUN = "teacher "  # how the name of a run begins that made a teacher for another one


@dataclass(frozen=True)
class Student:
    """`model` takes normalised pictures; `network` is the same, and takes uint8 pictures."""

    run: Run
    target: Target
    model: nn.Module
    network: Network
    config: Config
    source: DataSource | None  # None where the data are not looked at
    plugins: Builders  # what builds the networks that only plug-ins know
    notes: list[str] = field(default_factory=list)

    def val_pictures(self) -> EvaluationLoader:
        """Those of the run, or 2,000 of them that are always the same."""
        return self._loader("val", _MOST_VAL)

    def calibration(self) -> Tensor | None:
        """[N, 3, size, size] float32: 512 training pictures, unvaried and normalised; None where the data are not looked at."""
        if self.source is None:
            return None
        return torch.cat([normalised(batch.images, self.network) for _, batch in self._loader("train", _CALIBRATION)])

    def _loader(self, name: str, most: int) -> EvaluationLoader:
        part = getattr(self.source, name)
        if len(part) > most:
            part = part.subset(permutation(0, 0, len(part))[:most])
        return evaluation_loader(self.target.recipe, self.source, part, make_accelerator(), self.notes.append, device=CPU)


def normalised(images: Tensor, network: Network) -> Tensor:
    """[N, 3, H, W] uint8 -> float32, as the network does it."""
    return images.to(torch.float32).sub_(network.mean).mul_(network.scale)


def run_target(word: str, overrides: Sequence[str], job: Job, command: str) -> Target:
    """The student of the run in this folder. Raises RecipeError or DataError that says why there is none."""
    path = expanded(word)
    if path.is_file():
        hint = f": its run is distill {command} {path.parent}" if (path.parent / record.SUMMARY_FILE).is_file() else ""
        raise RecipeError(f"{word} is a file; name the folder of a finished run, such as runs/r50_to_r18-seed0{hint}")
    if is_export(path) and not (path / record.SUMMARY_FILE).exists():
        raise RecipeError(f"{word} is an export already; name the folder of the run that it came from")
    (target,) = read_targets(Words([str(path)], list(overrides), None, "val", "student", 1), job.catalogue)
    if str(target.run.summary.get("run_name", "")).startswith(_TEACHERS_RUN):
        raise DataError(
            f"{word} holds a teacher that distill has trained for other runs, and no student; name the run of the student. To hand over such a "
            "network itself, train it as one: distill train --recipe r50_alone"
        )
    return target


def open_student(target: Target, job: Job, *, looks_at_data: bool) -> Student:
    """Raises DataError where the weights or, if they are looked at, the data can't be used."""
    run, notes = target.run, []
    source = _source(target, job) if looks_at_data else None
    class_names = run.class_names or (source.class_names if source is not None else [])
    if not class_names:
        raise DataError(f"{run.path} does not say what its classes are called, as it is of an older format: leave out --no-check, or train it again")
    if source is not None:
        notes += _differences(target, source, class_names)
    own = source if target.has_own_data else None
    size = run.data.get("image_size") or (source.image_size if source is not None else None)
    if not isinstance(size, int):
        raise DataError(f"{run.path / record.SUMMARY_FILE} is damaged: data.image_size is not in it; train it again")
    model, _ = loaded_model(target, class_names, size, str(run.path / record.WEIGHTS_FILE), job)
    model = model.float().to(memory_format=torch.contiguous_format).eval().requires_grad_(False)
    mean, std = normalisation_of(target, own, job, None)
    entry = run.recipe.student
    name, arguments = as_timm(entry.model) if is_saved(entry.model) else (entry.model, {})
    config = Config(name, entry.norm, entry.stem, arguments | entry.arguments, size, tuple(mean), tuple(std), class_names)
    return Student(run, target, model, as_network(model, config), config, source, job.catalogue.models, notes)


def as_network(model: nn.Module, config: Config) -> Network:
    """uint8 pictures in, logits out, in the model's own precision."""
    return Network(model, mean=config.mean, std=config.std, channels_last=False).eval()


def _source(target: Target, job: Job) -> DataSource:
    try:
        return open_source(target.recipe.data, job.catalogue)
    except DataError as error:
        raise DataError(
            f"{target.name}: the export is checked on the run's val pictures, and they are not here: {error}\n"
            "Name them with data.root=FOLDER (or other data with data.KEY=VALUE), or say --no-check"
        ) from error


def _differences(target: Target, source: DataSource, class_names: Sequence[str]) -> list[str]:
    """What is to be said of data that are not those of the training. Raises DataError if nothing can be checked on them."""
    run = target.run
    if source.class_names != list(class_names):
        raise DataError(
            f"{target.name} knows {len(class_names)} classes ({', '.join(class_names[:5])}, ...), and the data has {len(source.class_names)} "
            f"({', '.join(source.class_names[:5])}, ...): name the data of its classes with data.KEY=VALUE, or say --no-check"
        )
    if source.image_size != run.data.get("image_size"):
        raise DataError(f"{target.name} was trained on pictures of {run.data.get('image_size')} px: leave out data.image_size={source.image_size}")
    if source.fingerprint() != run.data.get("fingerprint"):
        return ["checked on other pictures than the run's own: what was named differs, or they have changed since"]
    return []
