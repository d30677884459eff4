"""`distill cache build RECIPE`: asks the teacher for every view now, so that no run has to."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np

from distill.caching.opening import Opened, opened
from distill.errors import DataError
from distill.report.console import duration
from distill.report.count_progress import CountProgress


def build(name: str, overrides: Sequence[str], plugins: Sequence[str]) -> None:
    """Goes on where an earlier build or run left it. Raises RecipeError, DataError or StoppedError."""
    with opened(name, overrides, plugins) as cache:
        started = time.perf_counter()
        lacking = {view: _lacking(cache, view) for view in range(cache.num_views)}
        total = sum(map(len, lacking.values()))
        with CountProgress(cache.job.console, "asking the teacher", total) as progress:
            for view, positions in lacking.items():
                for batch in cache.loader.batches(view, _chunks(cache, positions)):
                    cache.cached(batch)
                    progress(len(batch.images))
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
