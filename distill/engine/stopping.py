"""Stopping in order: who may ask for it, and how all processes come to do it at the same step."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from distill.errors import StoppedError

# of several, the last one counts: a launcher sends SIGTERM after a Ctrl-C
_REASONS = ("", "its time limit", "SIGHUP", "SIGTERM", "SIGUSR1", "Ctrl-C")
_TIME_LIMIT, _INTERRUPT = _REASONS.index("its time limit"), _REASONS.index("Ctrl-C")
_SIGNALS = {signal.Signals[name]: number for number, name in enumerate(_REASONS) if name.startswith("SIG")} | {signal.SIGINT: _INTERRUPT}

_LAUNCHERS = {"accelerate", "torchrun", "accelerate.commands.launch", "accelerate.commands.accelerate_cli", "torch.distributed.run"}
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Answer(NamedTuple):
    """What all processes have agreed on."""

    reason: int  # to stop; 0 for none
    saves: bool  # whether the first process wants a checkpoint


class Stopper:
    """Hears SIGTERM, SIGUSR1, SIGHUP, Ctrl-C and the time limit.

    Outside of `deferred` they take effect at once, as there is nothing to save. Inside they are noted, and `poll` says so in all processes at the
    same call. A second Ctrl-C always takes effect at once; a SIGTERM after that changes nothing more.
    """

    def __init__(self, minutes: float | None = None):
        """minutes: until the time limit, from now on. To be made by all processes together, by the main thread if signals are to be heard."""
        self._deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self._reason, self._is_deferred, self._interrupts = 0, False, 0
        self._is_stopping = False  # once the error is on its way: whatever asks to stop then is heard already
        self._is_shared = dist.is_initialized() and dist.get_world_size() > 1
        self._is_main = not self._is_shared or dist.get_rank() == 0
        # a group of its own: whether to stop is told beside the gradients, on the host, and no device is waited for
        self._group: Any = dist.new_group(backend="gloo") if self._is_shared else None
        self._flags = torch.zeros(2, dtype=torch.int64)
        self._pending: Any = None  # what the last all_reduce is waited for by
        self._old_handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stopper:
        if threading.current_thread() is threading.main_thread():
            heard = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]  # nohup has SIGHUP ignored
            self._old_handlers = {number: signal.signal(number, self._hear) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)

    def _hear(self, number: int, _frame: object) -> None:
        self._interrupts += number == signal.SIGINT
        is_first, self._reason = not self._reason, max(self._reason, _SIGNALS[signal.Signals(number)])
        if number == signal.SIGINT and (self._interrupts > 1 or not self._is_deferred):
            raise KeyboardInterrupt
        if not self._is_deferred and not self._is_stopping:
            self._is_stopping = True
            raise stopped(self._reason)
        if is_first and self._is_main:
            again = "; press Ctrl-C again to stop at once" if number == signal.SIGINT else ""
            with contextlib.suppress(RuntimeError):  # it came while something else was being written
                print(f"{_REASONS[self._reason]}: stopping after this step, and saving{again}", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, requests wait for the next `poll`; what one process alone has not answered by the end takes effect there."""
        before, self._is_deferred = self._is_deferred, True
        try:
            yield
        finally:
            self._is_deferred = before
        if self._reason and not self._is_deferred and not self._is_shared:
            self._is_stopping = True
            raise stopped(self._reason)

    def poll(self, wants_to_save: Callable[[], bool] = lambda: False) -> Answer:
        """To be called equally often by all processes. With several, it says what was asked before the call before: nobody waits for an answer."""
        if self._deadline is not None and time.monotonic() > self._deadline:
            self._reason = self._reason or _TIME_LIMIT
        if not self._is_shared:
            self._is_stopping = bool(self._reason)
            return Answer(self._reason, wants_to_save())
        answer = Answer(0, False)
        if self._pending is not None:
            self._pending.wait()
            answer = Answer(int(self._flags[0]), bool(self._flags[1]))
            self._is_stopping = bool(answer.reason)
        asks_to_save = self._is_main and not answer.saves and wants_to_save()  # not again for the same moment
        self._flags = torch.tensor([self._reason, int(asks_to_save)])
        self._pending = dist.all_reduce(self._flags, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return answer

    def check(self) -> None:
        """Polls, and raises StoppedError in all processes alike if one was asked to stop."""
        if reason := self.poll().reason:
            raise stopped(reason)


def stopped(reason: int) -> StoppedError:
    """The error that ends a run which was asked to stop."""
    return StoppedError(f"stopped by {_REASONS[reason]}", 130 if reason == _INTERRUPT else 75)


def end_with_launcher() -> None:
    """Asks Linux for a SIGTERM when the launcher that started this process is gone.

    `accelerate launch` of one process does not pass signals on, and neither launcher can when it is killed: the run would go on unseen.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid()
    if _LAUNCHERS & {Path(word).name for word in _command(parent)[:3]}:  # python /bin/torchrun, or python -m torch.distributed.run
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it was gone before we asked
            os.kill(os.getpid(), signal.SIGTERM)


def _command(pid: int) -> list[str]:
    """What Linux says a process was started with; empty where it says nothing."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace").split("\0")
    except OSError:
        return []
