"""`distill doctor`: before a long run, what it will do and need, and everything that would end it. It writes nothing but a picture, if asked."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from pydantic import ValidationError
from rich.console import Console

from distill import record
from distill.build.batches import made_up_batch
from distill.build.check import find_problems
from distill.build.loaders import has_soft_labels
from distill.build.pieces import Pieces, build_pieces, rehearse, weight_sources
from distill.build.source import open_source
from distill.build.teachers import each_teacher
from distill.build.trainer import build_trainer
from distill.data.sources.base import DataSource
from distill.doctor.checks import Stage, check_disk, check_folders, check_labels, check_name, check_pictures
from distill.doctor.findings import Findings, FoundError
from distill.doctor.machine import free_memory, machine
from distill.doctor.measures import check_memory, features, forecast, losses_in_words, speed, terms
from distill.doctor.profile import profile
from distill.doctor.profile_picture import picture_path, write_picture
from distill.doctor.show import show
from distill.engine.runtime import cores_per_process, make_accelerator, only_deterministic, prepare_process, processes, resolve_precision
from distill.engine.stopping import Stopper
from distill.engine.trainer import Trainer
from distill.fast import form_of_teacher
from distill.preparation import Preparation, announce, prepare
from distill.recipe import Data, Recipe
from distill.recipe_files import Draft, read_draft
from distill.recipe_teachers import taught_by
from distill.resolve import Catalogue
from distill.run_folders import default_name
from distill.run_state import bytes_written, checkpoint_bytes
from distill.running import Job
from distill.structures import Batch
from distill.student_alone import control_recipe
from distill.teacher_check import check_teacher
from distill.teacher_store import TeacherStore, makers_of, own_row


def diagnose(
    name: str | None,
    overrides: Sequence[str] = (),
    plugins: Sequence[str] = (),
    *,
    as_json: bool = False,
    profiles: bool = False,
    picture: str | None = None,
) -> None:
    """Prints what a recipe's job will do and need, and what is wrong; of the machine only, without a recipe. profiles: also where the time of a step
    goes. picture: the file to draw that in.

    Raises RecipeError if the picture can't be written; FoundError, with the exit code of the first problem, if anything would fail later.
    """
    path = None if picture is None else picture_path(picture)
    prepare_process()
    found, state = Findings(), None
    report: dict[str, Any] = {}
    with found.attempt("processes"):
        state = processes()
    state = state or PartialState()
    report["machine"] = machine(state.device, state.num_processes)
    if name is not None:
        with Console(stderr=True).status("looking at the recipe, its data and this machine"):
            _Examination(state, found, report, profiles=profiles).of(name, overrides, plugins)
    report |= {"problems": [problem._asdict() for problem in found.problems], "warnings": found.warnings}
    if state.is_main_process:
        show(report, as_json=as_json)
        if path is not None and "profile" in report:
            write_picture(path, Path(name).name, report["profile"])
    if found.problems:
        count = len(found.problems)
        raise FoundError(f"{count} problem{'s' if count > 1 else ''} found: {name or 'this machine'} would fail", found.problems[0].exit_code)


class _Examination:
    """One recipe under examination: fills in a report, section by section, and what was found."""

    def __init__(self, state: PartialState, found: Findings, report: dict[str, Any], *, profiles: bool = False):
        self.state, self.found, self.report, self.profiles = state, found, report, profiles
        self.free = free_memory(state.device)  # before anything of the run is there
        self.said = io.StringIO()  # what a job would say to the person
        self.console = Console(file=self.said, width=1000, highlight=False, markup=False)

    def of(self, name: str, overrides: Sequence[str], plugins: Sequence[str]) -> None:
        catalogue = draft = recipe = None
        with self.found.attempt("plug-ins"):
            catalogue = Catalogue(plugins)
        catalogue = catalogue or Catalogue()
        with self.found.attempt("recipe"):
            draft = read_draft(name, overrides)
        if draft is None:
            return
        with self.found.attempt("recipe"):
            recipe = draft.finish(find_problems(draft.values, catalogue))
        data = recipe.data if recipe else _data_of(draft)
        runs_dir = recipe.runs_dir if recipe else draft.values.get("runs_dir", "runs")
        trains_teacher = recipe is not None and any(teacher.weights == "train" for teacher in taught_by(recipe).values())
        check_folders(str(runs_dir), trains_teacher, self.found)
        source = self._source(data, catalogue) if data else None
        if recipe is not None and source is not None:
            self.job = Job(catalogue, self.state, self.console, Stopper())
            self._run(recipe, source, Path(runs_dir) / (recipe.run_name or default_name(draft.name, recipe.seed)))

    def _source(self, data: Data, catalogue: Catalogue) -> DataSource | None:
        source = None
        with self.found.attempt("data"):
            source = open_source(data, catalogue)
            check_labels(source, self.found)
            num_read = check_pictures(source, self.found)
            sizes = {part: len(getattr(source, part)) for part in ("train", "val", "test")}
            classes, note = len(source.class_names), source.note
            self.report["data"] = {**sizes, "num_classes": classes, "image_size": source.image_size, "note": note, "num_pictures_tried": num_read}
        return source

    def _run(self, recipe: Recipe, source: DataSource, path: Path) -> None:
        check_name(recipe, path, self.found)
        preparation, precision, kept = None, "fp32", {}
        with self.found.attempt("rehearsal"):
            preparation = prepare(recipe, source, self.job)
            announce(preparation, path, source, self.job)
            self.report["plan"] = self._lines()
        with self.found.attempt("train.precision"):
            precision = resolve_precision(recipe.train.precision, self.state.device)
        with self.found.attempt("teacher"):
            kept = TeacherStore().kept(recipe, source, self.job)
        trained = {role: str(place / record.WEIGHTS_FILE) for role, (place, summary) in kept.items() if summary is not None}
        pieces, is_loaded = self._pieces(recipe, source, precision, weight_sources(recipe, trained))
        if pieces is None:
            return
        with self.found.attempt("rehearsal"), only_deterministic(recipe.deterministic):
            rehearse(pieces, source, soft_labels=has_soft_labels(recipe, source), unused=recipe.train.unused)
        pieces.distiller.train().zero_grad(set_to_none=True)
        accelerator = make_accelerator()
        if pieces.teacher is not None and is_loaded and len(trained) == len(kept):
            with self.found.attempt("teacher"):
                claimed = {role: own_row(summary)["val_top1"] for role, (_, summary) in kept.items()}
                for role, own, its in each_teacher(recipe, pieces):
                    check_teacher(own, source, its, accelerator, self.job, claimed=claimed.get(role))
                    form_of_teacher(own, source, its, accelerator, self.job)
        elif pieces.teacher is not None and is_loaded:
            self.console.print("teacher: not trained yet; below, it has its initial weights, and gradients will be others later")
        self.report["teacher"] = self._lines()
        with self.found.attempt("training"), only_deterministic(recipe.deterministic):
            trainer, _ = build_trainer(recipe, source, pieces, accelerator, precision=precision, log=lambda event: None)
            self._measure(recipe, source, pieces, trainer, precision)
        self._resources(recipe, source, pieces, precision, preparation, path)

    def _pieces(self, recipe: Recipe, source: DataSource, precision: str, weights: Mapping[str, str]) -> tuple[Pieces | None, bool]:
        """(networks and losses, whether they have their weights): with initial ones where those that were asked for can't be had."""
        for given in [weights, {}] if weights else [{}]:
            with self.found.attempt("networks"):
                device, catalogue = self.state.device, self.job.catalogue
                return build_pieces(recipe, catalogue, source, device=device, precision=precision, weights=given), given == weights
        return None, False

    def _measure(self, recipe: Recipe, source: DataSource, pieces: Pieces, trainer: Trainer, precision: str) -> None:
        batches: Any = _endless(trainer)  # a generator, which can be closed
        batch = None
        with self.found.attempt("loader"):
            batch = next(batches)
        if is_made_up := batch is None:
            batch = made_up_batch(source, min(8, recipe.data.global_batch_size), self.state.device)
            self.found.warn("the training pictures can't be read: gradients were measured on made-up ones, and no speed was")
        teacher = pieces.teacher(batch) if pieces.teacher else None
        with self.found.attempt("features"):
            self.report["features"] = features(pieces, batch)
            self.report["losses"] = losses_in_words(pieces.distiller)
        with self.found.attempt("gradients"):
            self.report["terms"] = terms(recipe, trainer, batch, teacher, self.found)
        if is_made_up:
            return
        asked = recipe.data.workers
        workers = None if source.train.pixels is not None else min(8, cores_per_process()) if asked is None else asked
        with self.found.attempt("speed"):
            self.report["speed"] = speed(trainer, batches, batch, workers)
        batches.close()  # before the trainer goes through the same pictures
        if self.profiles:
            with self.found.attempt("profile"):
                self.report["profile"] = profile(trainer, precision, workers, self.found)

    def _resources(
        self,
        recipe: Recipe,
        source: DataSource,
        pieces: Pieces,
        precision: str,
        preparation: Preparation | None,
        path: Path,
    ) -> None:
        """Memory and disk of every run of the job."""
        needs: dict[str, Any] = {}
        stages, makers = [], list(makers_of(preparation.teachers)) if preparation else []
        for maker in makers:
            if its := self._pieces(maker, source, precision, {})[0]:
                name = "the teacher" if len(makers) == 1 else f"the teacher {maker.student.model}"
                stages.append(_stage(name, TeacherStore().folder, maker, its))
                self._forecast(f"training {name}", maker, its, source, needs)
        if preparation is not None and preparation.finished_control is None and preparation.control is not None:
            control = control_recipe(recipe)
            if its := self._pieces(control, source, precision, {})[0]:
                stages.append(_stage("the student alone", path.parent, control, its))
        stages.append(_stage("the student" if recipe.teacher is None else "the distilled student", path.parent, recipe, pieces))
        self._forecast("training the student", recipe, pieces, source, needs)
        self.report["memory"] = {"needs": needs, "free_bytes": self.free, "processes_sharing_it": self._sharing()}
        with self.found.attempt("disk"):
            self.report["disk"] = check_disk(stages, self.found)

    def _forecast(self, what: str, recipe: Recipe, pieces: Pieces, source: DataSource, needs: dict[str, Any]) -> None:
        with self.found.attempt(f"memory of {what}"):
            per_process = recipe.data.global_batch_size // recipe.train.accumulation // self.state.num_processes
            few = made_up_batch(source, max(1, min(8, per_process)), self.state.device)
            needs[what] = forecast(recipe, pieces, source, few, self.state.num_processes)
            check_memory(what, needs[what], self.free, self._sharing(), self.found)

    def _sharing(self) -> int:
        """Each GPU has one process; a machine's memory is shared by all that run on it."""
        return self.state.num_processes if self.state.device.type == "cpu" else 1

    def _lines(self) -> list[str]:
        lines = self.said.getvalue().splitlines()
        self.said.seek(0)
        self.said.truncate()
        return lines


def _data_of(draft: Draft) -> Data | None:
    """What a recipe that is wrong elsewhere says of its data, if that is right."""
    try:
        return Data.model_validate(draft.values.get("data"))
    except ValidationError:
        return None


def _stage(name: str, folder: Path, recipe: Recipe, pieces: Pieces) -> Stage:
    student = sum(tensor.numel() * tensor.element_size() for tensor in pieces.distiller.student.state_dict().values())
    return Stage(name, folder, bytes_written(recipe, pieces), student + (0 if name.startswith("the teacher") else checkpoint_bytes(recipe, pieces)))


def _endless(trainer: Trainer) -> Iterator[Batch]:
    for epoch in itertools.count():
        yield from trainer.loader.epoch(epoch)
