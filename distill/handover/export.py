"""`distill export`: the student of a run in another format, checked against the run before it is put in place."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from distill import record
from distill.engine.runtime import prepare_process, processes
from distill.engine.stopping import Stopper
from distill.errors import DistillError, RecipeError
from distill.handover.card import agreement_in_words, card
from distill.handover.check import Check, check, why_not_good
from distill.handover.config import Config
from distill.handover.formats import FORMATS, Format
from distill.handover.placing import RECORD_FILE, placed, refuse_other_folder
from distill.handover.provenance import provenance
from distill.handover.student import Student, open_student, run_target
from distill.handover.timm_folder import timm_config, why_not
from distill.handover.words import ExportWish
from distill.models.weight_files import file_sha256
from distill.places import expanded
from distill.report.console import make_console, print_result, printable
from distill.resolve import Catalogue
from distill.running import Job

README = "README.md"


def export(wish: ExportWish) -> None:
    """Writes the folder and prints what the check has found. Raises RecipeError, DataError or DistillError; nothing is put in place then."""
    folder, target = expanded(wish.output), FORMATS[wish.to]
    refuse_other_folder(folder)
    target.open()  # what has to be installed is said first
    prepare_process()
    with Stopper() as stopper:
        job = Job(Catalogue(wish.plugins), processes(), make_console(is_main=True), stopper)
        student = open_student(run_target(wish.run, wish.overrides, job, "export"), job, looks_at_data=wish.checks)
        found = export_student(student, target, folder, job.console, wish.min_agreement)
    for note in student.notes:
        job.console.print(f"note: {printable(note)}", style="yellow", soft_wrap=True)
    _show(wish.run, folder, target, found)


def export_student(student: Student, target: Format, folder: Path, console: Console, min_agreement: float | None = None) -> Check | None:
    """Returns what the check has found; None where the student's data are not looked at."""
    if target.needs_calibration and student.source is None:
        raise RecipeError(f"--to {target.name} looks at training pictures to choose its 8-bit scales: leave out --no-check, and name the run's data")
    if target.name == "timm" and (problem := why_not(student.config)):
        raise RecipeError(f"--to timm: {problem}")
    module = target.open()
    with placed(folder) as work:
        with console.status(f"writing {target.name}"), torch.no_grad():
            calibration = student.calibration() if target.needs_calibration else None
            file = module.write(student.model, work, student.config.image_size, calibration)
        config = _config(student, target, file)
        config.write(work)
        if target.travels_alone:
            describing: Any = module  # a format that travels alone has `describe`
            describing.describe(file, config.facts())
        found = None if student.source is None else _checked(student, target, file, module.load(file, student.plugins), console, min_agreement)
        _write_card(work, config, provenance(student, target, found))
    return found


def _config(student: Student, target: Format, file: Path) -> Config:
    extra: dict[str, Any] = timm_config(student.model, student.config) if target.name == "timm" else {}
    return dataclasses.replace(student.config, format=target.name, file=file.name, extra=extra)


def _checked(
    student: Student, target: Format, file: Path, answer: Callable[[Tensor], Tensor], console: Console, min_agreement: float | None
) -> Check:
    found = check(student, file, answer, target.max_difference, console)
    if problem := why_not_good(found, target, min_agreement):
        raise DistillError(
            f"{file.name} is not the student of {student.run.path}: {problem}\nNothing was put in place. --min-agreement {found.agreement:.3g} would "
            "take it as it is; another --to may be nearer"
        )
    return found


def _write_card(work: Path, config: Config, found: dict[str, Any]) -> None:
    """README.md, and export.json last."""
    record.write_text(work / README, card(found, config))
    files = {path.relative_to(work).as_posix(): file_sha256(path) for path in sorted(work.rglob("*")) if path.is_file()}
    record.write_text(work / RECORD_FILE, json.dumps(found | {"files": files}, indent=2, allow_nan=False) + "\n")


def _show(run: str, folder: Path, target: Format, found: Check | None) -> None:
    console = Console(highlight=False, markup=False, emoji=False)
    console.print(printable(f"{folder}: {target.words}"), soft_wrap=True)
    if found is None:
        return console.print("Not checked, as --no-check says; its card says so too.", soft_wrap=True)
    table = Table()
    for number, heading in enumerate(("", printable(run), target.name)):
        table.add_column(heading, justify="right" if number else "left", overflow="fold")
    table.add_row("val top-1", f"{found.run_top1:.2%}", f"{found.export_top1:.2%}")
    table.add_row("size", f"{found.run_bytes / 1e6:.2f} MB", f"{found.export_bytes / 1e6:.2f} MB")
    table.add_row("one picture", f"{found.run_ms:.2f} ms", f"{found.export_ms:.2f} ms")
    table.add_row("a picture, of 64", f"{found.run_batch_ms:.3f} ms", f"{found.export_batch_ms:.3f} ms")
    print_result(table, is_main=True)
    return console.print(f"{agreement_in_words(found.as_dict())} Both on this machine's CPU, the run's weights in float32.", soft_wrap=True)
