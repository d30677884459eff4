"""`distill compare`: finished runs, or a matrix of which what is missing is trained first."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from distill import record
from distill.errors import DistillError, RecipeError
from distill.places import expanded
from distill.report.compare_tables import csv_text, json_text, markdown, terminal_tables
from distill.report.comparison import Comparison, compare
from distill.report.console import make_console, print_result, printable
from distill.report.runs import read_runs
from distill.report.verdicts import verdicts


@dataclass(frozen=True)
class Output:
    """Where a comparison goes besides the terminal; each None for nowhere."""

    against: str | None = None
    as_json: bool = False  # to standard output, instead of the tables
    markdown: str | None = None
    csv: str | None = None
    html: str | None = None


def compare_runs(places: Sequence[str], output: Output) -> None:
    """Compares finished runs. No torch is imported."""
    runs, notes = read_runs(places)
    comparison = compare(runs, output.against)
    _show(replace(comparison, notes=[*notes, *comparison.notes]), output)


def compare_matrix(wish, plugins: Sequence[str], output: Output, *, plan: bool = False, launcher: str = "") -> None:
    """Trains what is missing and compares. plan: only prints the commands. Raises DistillError, after the table, if a run failed."""
    from distill.job import check_whole
    from distill.resolve import Catalogue
    from distill.study.matrix import cells, command
    from distill.study.run import failures_in_words, train_missing

    catalogue, words = Catalogue(plugins), _launcher(launcher, is_used=not plan)
    made = cells(wish, catalogue)
    for cell in {cell.row: cell for cell in made}.values():  # before the first of them is trained
        check_whole(cell.draft, catalogue)
    if plan:
        for cell in made:
            print(command(cell, words) + ("  # finished" if cell.state == "finished" else ""))
        return
    failures = train_missing(made, make_console(is_main=True), words)
    finished = [str(cell.folder.resolve()) for cell in made if cell.state == "finished"]
    if finished:
        compare_runs(finished, output)
    if failures:
        raise DistillError(failures_in_words(failures))


def _show(comparison: Comparison, output: Output) -> None:
    for path, write in ((output.markdown, markdown), (output.csv, csv_text)):
        if path is not None:
            _write(expanded(path), write(comparison))
    if output.html is not None:
        from distill.report.html import page

        _write(expanded(output.html), page(comparison))
    if output.as_json:
        print(json_text(comparison), end="")
        return
    for table in terminal_tables(comparison):
        print_result(table, is_main=True)
    console = Console(highlight=False, markup=False, emoji=False)
    for sentence in verdicts(comparison):
        console.print(printable(sentence), soft_wrap=True)
    for note in comparison.notes:
        make_console(is_main=True).print(f"note: {printable(note)}", style="yellow", soft_wrap=True, markup=False)


def _launcher(text: str, *, is_used: bool) -> list[str]:
    """is_used: False where the commands are only printed, for other machines."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise RecipeError(f"--launcher {text}: {error}") from error
    if is_used and words and shutil.which(words[0]) is None:
        raise RecipeError(f"--launcher {text}: there is no command {words[0]}")
    return words


def _write(path: Path, text: str) -> None:
    """Into a device such as /dev/stdout, or through a link, as a shell would."""
    if path.is_dir() or not path.name:
        raise RecipeError(f"can't write {path}: it is a folder; name a file")
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")
        else:
            record.write_text(path.resolve(), text)
    except OSError as error:
        raise RecipeError(f"can't write {path}: {error.strerror}") from error
    make_console(is_main=True).print(f"written: {path}", soft_wrap=True, markup=False)
