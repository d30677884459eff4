"""Processes of Python that a benchmark starts: their environment, and groups of them that work only when they are told to."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_LAST_WORDS = 2000  # characters of what a process that failed has written


def environment_of_child(**more: str) -> dict[str, str]:
    """This process's, by which the child finds this package wherever it is started."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | more


class Group:
    """Processes that wait, without using a core, for a line on their standard input, and answer each with one line of JSON."""

    def __init__(self, name: str, module: str, arguments: Sequence[str], environments: Sequence[dict[str, str]], *, patience: float):
        """One process for each environment. patience: seconds that an answer may take."""
        self.name, self.patience, self._environments = name, patience, environments
        self._command = [sys.executable, "-m", module, *arguments]
        self._answers: queue.Queue[tuple[int, str]] = queue.Queue()  # (rank, line); an empty line when the process has closed its output
        self._processes: list[subprocess.Popen] = []
        self._readers: list[threading.Thread] = []
        self._said = []

    def __enter__(self) -> Group:
        try:
            for rank, more in enumerate(self._environments):
                self._start(rank, more)
        except BaseException:  # a Ctrl-C too
            self._kill()
            raise
        return self

    def _start(self, rank: int, more: dict[str, str]) -> None:
        said = tempfile.TemporaryFile()  # noqa: SIM115 (closed when the group is left)
        self._said.append(said)
        process = subprocess.Popen(
            self._command, env=environment_of_child(**more), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True
        )
        self._processes.append(process)
        self._readers.append(threading.Thread(target=self._read, args=(rank, process), daemon=True))
        self._readers[-1].start()

    def _read(self, rank: int, process: subprocess.Popen) -> None:
        for line in process.stdout:
            self._answers.put((rank, line))
        self._answers.put((rank, ""))

    def ask(self, word: str) -> list[Any]:
        """Everyone's answer, by rank. Raises SystemExit, with what a process said last, if it ends or gives none in time."""
        for process in self._processes:
            with contextlib.suppress(BrokenPipeError):  # it has ended, which is found below
                process.stdin.write(word + "\n")
                process.stdin.flush()
        return self.answers()

    def answers(self) -> list[Any]:
        """One from each. Raises SystemExit as `ask`."""
        found, deadline = {}, time.monotonic() + self.patience
        while len(found) < len(self._processes):
            try:
                rank, line = self._answers.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                missing = sorted(set(range(len(self._processes))) - set(found))
                raise SystemExit(self._failure(missing[0], f"has not answered within {self.patience:g} seconds")) from None
            if not line:
                raise SystemExit(self._failure(rank, f"ended with code {self._processes[rank].wait()}"))
            found[rank] = json.loads(line)
        return [found[rank] for rank in sorted(found)]

    def _failure(self, rank: int, what: str) -> str:
        said = self._said[rank]
        said.seek(0)
        words = said.read().decode(errors="replace")[-_LAST_WORDS:].strip()
        return f"{self.name}: process {rank} of {len(self._processes)} {what}; it said:\n{words or 'nothing'}"

    def __exit__(self, kind: type | None, *_: object) -> None:
        """Closing what they read from has them end; after an error nobody waits for them."""
        for process in self._processes:
            with contextlib.suppress(OSError):
                process.stdin.close()
        if kind is not None:
            self._kill()
        for process in self._processes:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self._kill()
                process.wait()
        for reader, process in zip(self._readers, self._processes, strict=True):
            reader.join()
            process.stdout.close()
        for said in self._said:
            said.close()

    def _kill(self) -> None:
        for process in self._processes:
            process.kill()
