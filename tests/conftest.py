"""What all tests share: a trained-teacher cache and a working folder of their own, and a way to run the command line in this process."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from distill import cli
from distill.engine import timing

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
if CORES and (worker := os.environ.get("PYTEST_XDIST_WORKER")):
    # each worker, and what it starts, has one core: threads that wait for one spin meanwhile, and take it from others
    os.sched_setaffinity(0, {CORES[int(worker.removeprefix("gw")) % len(CORES)]})
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts the tests in the background has them ignore it
torch.set_num_threads(1)  # these networks are so small that threads wait for each other longer than they work


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """No test sees the user's teachers or writes into the checkout."""
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DISTILL_PLUGINS", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(timing, "SECONDS", 0.0)  # one timed call is enough where no test looks at the speed
    monkeypatch.setattr(timing, "LEAST_CALLS", 1)
    yield
    torch.set_flush_denormal(False)  # a run in this process has set it; the tests after it start as a new process does


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """A folder of two finished runs (tests/handed_over.py): trained once, for all tests that hand over their students."""
    from handed_over import train_runs

    return train_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def all_cores():
    """For a test of what several cores do."""
    if not CORES:
        yield
        return
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(CORES))
    yield
    os.sched_setaffinity(0, own)


@pytest.fixture
def distill(capsys):
    """distill("train", "--recipe", ...) -> (exit code, standard output, standard error)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
