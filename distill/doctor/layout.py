"""What all of the doctor's reports are laid out with on standard output: headings, plain tables, lists, and JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text


def output_console() -> Console:
    """Standard output, not wider than can be read with ease; 80 columns where there is no terminal, and COLUMNS changes that."""
    console = Console(highlight=False, markup=False, emoji=False)
    console.width = min(console.width, 120)
    return console


def print_json(report: Any, console: Console) -> None:
    """The report as JSON on the console."""
    console.print(json.dumps(_plain(report), indent=2, ensure_ascii=False, allow_nan=False), soft_wrap=True)


def title(text: str, console: Console) -> None:
    """An empty line and a heading."""
    console.print()
    console.print(Text(text, style="bold"))


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], console: Console, left: int = 1) -> None:
    """left: how many columns are text; the others are numbers."""
    made = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=any(headings), header_style="dim")
    for number, heading in enumerate(headings):
        made.add_column(heading, justify="left" if number < left else "right", overflow="fold")
    for row in rows:
        made.add_row(*row)
    console.print(Padding(made, (0, 0, 0, 2), expand=False))


def listed(lines: Sequence[str], console: Console, style: str = "") -> None:
    """Points of a list, each broken under its own beginning."""
    made = Table.grid(padding=(0, 1, 0, 0))
    made.add_column()
    made.add_column(overflow="fold")
    for line in lines:
        made.add_row(Text("-", style=style), Text(line))
    console.print(Padding(made, (0, 0, 0, 2), expand=False))


def number(value: float) -> str:
    """Three significant digits, in scientific notation where the number is very large or small."""
    return f"{value:.3g}" if value == 0 or 1e-3 <= abs(value) < 1e4 or not math.isfinite(value) else f"{value:.1e}"


def _plain(value: Any) -> Any:
    """JSON has no infinity and no nan: null stands for both."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
