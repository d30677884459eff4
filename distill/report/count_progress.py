"""How far a tool is that goes through many pictures: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from distill.report.console import SECONDS_BETWEEN_LINES, duration


class CountProgress:
    """Shows how many of `total` are done, how many a second, and how long the rest takes."""

    def __init__(self, console: Console, title: str, total: int, unit: str = "pictures"):
        self.console, self.title, self.total, self.unit = console, title, total, unit
        self.done = 0
        self._progress: Progress | None = None

    def __enter__(self) -> CountProgress:
        self._started = self._last_line = time.monotonic()
        if self.console.is_terminal and not self.console.quiet:
            columns = [TextColumn("[bold]{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("{task.fields[text]}")]
            self._progress = Progress(*columns, console=self.console, refresh_per_second=4)
            self._task = self._progress.add_task(self.title, total=self.total, text="")
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, num: int = 1) -> None:
        """So many more are done."""
        self.done += num
        if self._progress is not None:
            self._progress.update(self._task, completed=self.done, text=self._speed())
        elif time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.console.print(f"{self.title}: {self.done:,}/{self.total:,} {self.unit}  {self._speed()}", soft_wrap=True)

    def _speed(self) -> str:
        seconds = max(time.monotonic() - self._started, 1e-9)
        left = seconds * (self.total - self.done) / max(self.done, 1)
        return f"{self.done / seconds:,.0f} {self.unit}/s  left {duration(left)}"
