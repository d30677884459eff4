"""`distill cache build RECIPE`: asks the teacher for every view now, so that no run has to."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from distill.caching.opening import Opened, opened
from distill.errors import DataError
from distill.report.console import SECONDS_BETWEEN_LINES, duration


def build(name: str, overrides: Sequence[str], plugins: Sequence[str]) -> None:
    """Goes on where an earlier build or run left it. Raises RecipeError, DataError or StoppedError."""
    with opened(name, overrides, plugins) as cache:
        started = time.perf_counter()
        lacking = {view: _lacking(cache, view) for view in range(cache.num_views)}
        total = sum(map(len, lacking.values()))
        with _Shown(cache, total) as shown:
            for view, positions in lacking.items():
                for batch in cache.loader.batches(view, _chunks(cache, positions)):
                    cache.cached(batch)
                    shown.advance(len(batch.images))
                    cache.job.stopper.check()
                cache.cached.flush()
        cache.accelerator.wait_for_everyone()
        cache.job.say(f"all {cache.num_views} view(s) are there; {total:,} pictures were asked in {duration(time.perf_counter() - started)}")


def _lacking(cache: Opened, view: int) -> np.ndarray:
    """This process's share of the positions in the training part whose answer is not there."""
    part, folder = cache.loader.part, cache.cached.folder
    try:
        is_whole = folder.view(view).whole()
    except OSError as error:
        what = f"{folder.view_path(view)} can't be made: {error.strerror or error}"
        raise DataError(f"{what}; free some, or set teacher.cache.folder=FOLDER on another disk") from error
    rows = np.searchsorted(cache.cached.sample_ids, part.sample_ids)
    return np.flatnonzero(~is_whole[rows])[cache.accelerator.process_index :: cache.accelerator.num_processes]


def _chunks(cache: Opened, positions: np.ndarray) -> Iterator[np.ndarray]:
    size = max(64, cache.recipe.data.global_batch_size // cache.accelerator.num_processes)
    return (positions[start : start + size] for start in range(0, len(positions), size))


class _Shown:
    """Progress as a bar in a terminal, and else as a line now and then."""

    def __init__(self, cache: Opened, total: int):
        self._console, self._total, self._done, self._last = cache.job.console, total, 0, time.monotonic()
        columns = [TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn(), TimeRemainingColumn()]
        self._progress = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._progress.add_task("asking the teacher", total=total)

    def __enter__(self) -> _Shown:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, num: int) -> None:
        self._done += num
        self._progress.advance(self._task, num)
        if not self._console.is_terminal and time.monotonic() - self._last > SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            self._console.print(f"asking the teacher: {self._done:,} of {self._total:,}")
