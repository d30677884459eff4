"""`distill compare`: finished runs, or a matrix of which what is missing is trained first."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from distill import record
from distill.errors import DistillError, RecipeError
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
    _show(compare(runs, output.against), notes, output)


def compare_matrix(wish, plugins: Sequence[str], output: Output, *, plan: bool = False, launcher: str = "") -> None:
    """Trains what is missing and compares. plan: only prints the commands. Raises DistillError, after the table, if a run failed."""
    from distill.job import check
    from distill.resolve import Catalogue
    from distill.study.matrix import cells, command
    from distill.study.run import failures_in_words, train_missing

    catalogue, words = Catalogue(plugins), shlex.split(launcher)
    made = cells(wish, catalogue)
    for cell in {cell.row: cell for cell in made}.values():  # before the first of them is trained
        check(cell.draft, catalogue)
    if plan:
        for cell in made:
            print(command(cell, words) + ("  # finished" if cell.state == "finished" else ""))
        return
    failures = train_missing(made, make_console(is_main=True), words)
    finished = [str(cell.folder) for cell in made if cell.state == "finished"]
    if finished:
        compare_runs(finished, output)
    if failures:
        raise DistillError(failures_in_words(failures))


def _show(comparison: Comparison, notes: Sequence[str], output: Output) -> None:
    for path, write in ((output.markdown, markdown), (output.csv, csv_text)):
        if path is not None:
            _write(Path(path).expanduser(), write(comparison))
    if output.html is not None:
        from distill.report.html import page

        _write(Path(output.html).expanduser(), page(comparison))
    if output.as_json:
        print(json_text(comparison), end="")
        return
    for table in terminal_tables(comparison):
        print_result(table, is_main=True)
    console = Console(highlight=False, markup=False, emoji=False)
    for sentence in verdicts(comparison):
        console.print(printable(sentence), soft_wrap=True)
    for note in [*notes, *comparison.notes]:
        make_console(is_main=True).print(f"note: {printable(note)}", style="yellow", soft_wrap=True, markup=False)


def _write(path: Path, text: str) -> None:
    try:
        record.write_text(path, text)
    except OSError as error:
        raise RecipeError(f"can't write {path}: {error.strerror}") from error
    make_console(is_main=True).print(f"written: {path}", soft_wrap=True, markup=False)
