"""The one way out of every benchmark: a table on the screen, one JSON file and one Markdown table, each with all that its figures hold for."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table as ScreenTable

from distill.record import environment, now, write_text


class Table(NamedTuple):
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Conditions:
    """What figures hold for, beside the machine."""

    device: torch.device
    precision: str
    clock: str  # what was inside the clock, or what was counted where there is none
    num_processes: int = 1
    num_threads: int | None = None  # of each process; None for this process's own


def make_parser(name: str, description: str, *, quick: str) -> argparse.ArgumentParser:
    """With the options that all benchmarks have. name: of the module. quick: what --quick makes less of."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description, formatter_class=formatter)
    parser.add_argument("--quick", action="store_true", help=f"{quick}; under 3 minutes on 2 idle CPU cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there too")
    return parser


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, and the `command` that gave them. Ends the program with code 2, before anything is measured, if a file can't be written."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    options = parser.parse_args(words)
    for option, path in (("--json", options.json), ("--markdown", options.markdown)):
        if path is not None and (reason := _unwritable(path)):
            parser.error(f"{option} {path}: {reason}")
    if options.json and options.markdown and options.json.resolve() == options.markdown.resolve():
        parser.error(f"--json and --markdown are the same file, {options.json}: give each its own")
    options.command = " ".join([parser.prog, *words])
    return options


def _unwritable(path: Path) -> str:
    """Why; empty if it can be written."""
    if path.is_dir():
        return "is a folder; name a file in it"
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}; make it first"
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        return "you may not write there"
    return ""


def publish(options: argparse.Namespace, table: Table, values: Mapping[str, Any], conditions: Conditions) -> None:
    """Shows the table, and writes what the options ask for."""
    screen = ScreenTable(*table.columns, title=table.title)
    for row in table.rows:
        screen.add_row(*row)
    console = Console()
    console = console if console.is_terminal else Console(width=200)  # rich assumes 80 columns in a file, and would break lines there
    console.print(screen, f"In the clock: {conditions.clock}", markup=False, highlight=False)
    facts = _environment(options, conditions)  # once: both files tell the same date
    _write_json(options, values, conditions, facts)
    if options.markdown:
        write_text(options.markdown, markdown(table, conditions, facts))


def write_json(options: argparse.Namespace, values: Mapping[str, Any], conditions: Conditions) -> None:
    """Where --json asks for it. A benchmark that takes long does so now and then: what is measured stays, however it ends."""
    _write_json(options, values, conditions, _environment(options, conditions))


def _write_json(options: argparse.Namespace, values: Mapping[str, Any], conditions: Conditions, facts: Mapping[str, Any]) -> None:
    if options.json:
        record = {**values, "settings": _settings(options), "clock": conditions.clock, "environment": facts}
        write_text(options.json, json.dumps(record, indent=2, allow_nan=False) + "\n")


def markdown(table: Table, conditions: Conditions, facts: Mapping[str, Any]) -> str:
    """The table, and below it all that it holds for."""
    rows = [table.columns, ["---"] * len(table.columns), *table.rows]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    where = f"{facts['processor']}, {facts['num_cores']} core(s), {facts['device']}, {facts['precision']}"
    how = f"{facts['num_processes']} process(es) of {facts['num_threads']} thread(s)"
    versions = ", ".join(f"{name} {version}" for name, version in {"Python": facts["python"], **facts["versions"]}.items() if version)
    below = [f"In the clock: {conditions.clock}", f"{facts['date']}. {where}; {how}; {facts['platform']}. {versions}.", f"`{facts['command']}`"]
    return "\n\n".join([f"### {table.title}", "\n".join(lines), *below]) + "\n"


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    kept = {name: value for name, value in vars(options).items() if name not in ("json", "markdown", "command")}
    return {name: str(value) if isinstance(value, Path) else value for name, value in kept.items()}


def _environment(options: argparse.Namespace, conditions: Conditions) -> dict[str, Any]:
    device, threads = conditions.device, conditions.num_threads or torch.get_num_threads()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    facts = environment(name, conditions.precision, conditions.num_processes)
    return {**facts, "num_threads": threads, "date": now(), "command": options.command}
