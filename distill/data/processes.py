"""Work on many pictures in several processes, for tools that go through all of them once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for_objects
from typing import TypeVar

import torch

from distill.errors import DataError
from distill.record import available_cores

_WORTH_A_PROCESS = 250  # pictures: fewer are read sooner than a process has started
_MOST_PROCESSES = 32
_WAITING = 4  # chunks for each process that are handed out before they are asked for

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")


def usual_workers(num_pictures: int) -> int:
    """How many processes are worth starting; 0 to do the work in this one."""
    return min(available_cores(), num_pictures // _WORTH_A_PROCESS, _MOST_PROCESSES)


def in_processes(function: Callable[[Chunk], Result], chunks: Iterable[Chunk], workers: int) -> Iterator[Result]:
    """What the function returns for each chunk, in the order in which they are done; in this process if workers is 0.

    The function and its argument are pickled. What it raises is raised here; DataError is raised if a process dies.
    """
    if not workers:
        yield from map(function, chunks)
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_begin)
    waiting: set[Future[Result]] = set()
    try:
        for chunk in chunks:
            waiting.add(pool.submit(function, chunk))
            if len(waiting) >= _WAITING * workers:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    except BrokenProcessPool as error:
        raise DataError("a process that reads pictures has died; has memory run out? try again with fewer: --workers 1, or 0 for none") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """A Ctrl-C is for the process that waits for this one, which ends when that one does, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    wait_for_objects([parent.sentinel])
    os._exit(1)
