"""What the person sees while a run goes on: a live display on a terminal, plain lines elsewhere, nothing on the other processes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

SECONDS_BETWEEN_LINES = 20


def make_console(*, is_main: bool) -> Console:
    """Writes to standard error, so that standard output stays free for results; silent on all processes but the first."""
    return _console(is_main=is_main, stderr=True)


def print_result(renderable: RenderableType, *, is_main: bool) -> None:
    """The result of the job, to standard output."""
    _console(is_main=is_main, stderr=False).print(renderable)


def _console(*, is_main: bool, stderr: bool) -> Console:
    options: dict[str, Any] = {"stderr": stderr, "quiet": not is_main, "highlight": False, "markup": False, "emoji": False}
    console = Console(**options)
    return console if console.is_terminal else Console(**options, width=1000)  # rich assumes 80 in a file, and would break lines there


def printable(text: str) -> str:
    """The text with codes that would command the terminal spelled out: names of files can hold such."""
    return "".join(letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in text)


def duration(seconds: float) -> str:
    """41 s, 3 min 20 s, 2 h 5 min"""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


class RunProgress:
    """Shows a run's "train" and "epoch" events."""

    def __init__(self, console: Console, title: str, num_steps: int, num_epochs: int):
        self.console, self.title, self.num_steps, self.num_epochs = console, title, num_steps, num_epochs
        self._val = ""
        self._started = self._last_line = time.monotonic()
        self._progress: Progress | None = None

    def __enter__(self) -> RunProgress:
        if self.console.is_terminal and not self.console.quiet:
            columns = [TextColumn("[bold]{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("{task.fields[text]}")]
            self._progress = Progress(*columns, console=self.console, refresh_per_second=4)
            self._task = self._progress.add_task(self.title, total=self.num_steps, text="")
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Takes one event of the trainer's log."""
        if event["event"] == "weights":
            found = ", ".join(f"{label} {weight:.4g}" for label, weight in event.items() if label not in _NOT_TERMS)
            self.console.print(f"{self.title}: weights found from the first step's gradients: {found}", soft_wrap=True)
        if event["event"] not in ("train", "epoch"):
            return
        if event["event"] == "epoch":
            self._val = f"val {event['val_top1']:.1%}"
        text = self._describe(event)
        if self._progress is not None:
            self._progress.update(self._task, completed=event["step"], text=text)
        elif event["event"] == "epoch" or time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.console.print(f"{self.title}: step {event['step']}/{self.num_steps}  {text}", soft_wrap=True)

    def _describe(self, event: Mapping[str, Any]) -> str:
        parts = [f"epoch {event['epoch']}/{self.num_epochs}"]
        if event["event"] == "train":
            terms = [f"{name} {value:.3f}" for name, value in event.items() if name not in _NOT_TERMS]
            parts += [f"loss {event['loss']:.3f}" + (f" ({' '.join(terms)})" if len(terms) > 1 else "")]
            parts += [
                f"train {event['top1']:.1%}" if "top1" in event else "",
                self._val,
                f"lr {event['lr']:.2g}",
                f"{event['images_per_second']:,.0f} images/s",
            ]
        else:
            parts += [self._val]
        done = event["step"] / self.num_steps
        parts += [f"left {duration((time.monotonic() - self._started) * (1 - done) / done)}"]
        return "  ".join(part for part in parts if part)


_NOT_TERMS = {"event", "epoch", "step", "lr", "loss", "top1", "gradient_norm", "images_per_second", "num_replaced"}
