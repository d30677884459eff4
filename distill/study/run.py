"""Trains the cells of a matrix that are missing, one after another, each as a process of its own: one that fails or dies takes none with it."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from distill import record
from distill.errors import DataError, StoppedError
from distill.report.console import duration
from distill.study.matrix import Cell, command

_STOPPED, _INTERRUPTED = 75, 130
_RUN = Path(__file__).resolve().parent.parent / "run.py"


@dataclass(frozen=True)
class Failure:
    """A cell that did not finish."""

    cell: Cell
    exit_code: int
    reason: str


def train_missing(cells: Sequence[Cell], console: Console, launcher: Sequence[str] = ()) -> list[Failure]:
    """Finished cells are passed over, begun ones gone on with. Returns those that failed; the others are done all the same.

    Raises DataError where a folder holds a run of another recipe, StoppedError when asked to stop, KeyboardInterrupt.
    """
    if others := [cell for cell in cells if cell.state == "other"]:
        raise DataError(
            f"{others[0].folder} holds a run of another recipe; remove or rename it, or set runs_dir=FOLDER for this study"
            + (f" ({len(others)} such folders)" if len(others) > 1 else "")
        )
    missing = [cell for cell in cells if cell.state != "finished"]
    console.print(f"{len(cells)} runs, {len(cells) - len(missing)} of them finished already")
    failures: list[Failure] = []
    durations: list[float] = []
    for number, cell in enumerate(missing, start=1):
        left = f", about {duration(sum(durations) / len(durations) * (len(missing) - number + 1))} left" if durations else ""
        console.print(f"\n{number}/{len(missing)}: {cell.row}, seed {cell.seed}{left}", style="bold")
        started = time.monotonic()
        code = _run(cell, launcher)
        if code in (_STOPPED, _INTERRUPTED):
            console.print("the same command goes on with what is missing", style="bold")
            if code == _INTERRUPTED:
                raise KeyboardInterrupt
            raise StoppedError(f"stopped in {cell.row}, seed {cell.seed}")
        if code:
            failures.append(Failure(cell, code, _reason(cell, code)))
            console.print(f"{cell.row}, seed {cell.seed} failed (exit code {code}); going on with the others", style="bold red")
        else:
            durations.append(time.monotonic() - started)
    return failures


def failures_in_words(failures: Sequence[Failure]) -> str:
    """Each failed run with its reason and its command, and how to go on."""
    lines = [f"{one.cell.row}, seed {one.cell.seed} (exit code {one.exit_code}): {one.reason}\n    {command(one.cell)}" for one in failures]
    return f"{len(failures)} run(s) failed; the same command tries them again:\n  " + "\n  ".join(lines)


def _run(cell: Cell, launcher: Sequence[str]) -> int:
    """The exit code; what the cell prints goes to standard error, so that standard output has the comparison alone."""
    words = [*launcher, str(_RUN)] if launcher else [sys.executable, "-m", "distill", "train"]
    with _passing_on() as child:
        process = subprocess.Popen([*words, *cell.arguments], stdout=sys.stderr)
        child.append(process)
        try:
            code = process.wait()
        except KeyboardInterrupt:  # the terminal has sent it to the cell as well
            process.wait()
            raise
    # a launcher turns every code into 1; the folder knows
    return code and (record.read_json(cell.folder / record.STATUS_FILE).get("exit_code") or code)


@contextlib.contextmanager
def _passing_on() -> Iterator[list[subprocess.Popen]]:
    """SIGTERM and SIGUSR1 ask the running cell to save and stop."""
    children: list[subprocess.Popen] = []

    def tell(number: int, _frame: object) -> None:
        for child in children:
            child.send_signal(number)

    old = {number: signal.signal(number, tell) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield children
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _reason(cell: Cell, code: int) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    status = record.read_json(cell.folder / record.STATUS_FILE)
    return (status.get("reason") or "its message is above").splitlines()[0]
