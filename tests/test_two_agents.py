"""Two torchrun agents that meet over loopback, as two machines do: one is lost, and the run goes on as if it had not been."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from runs import SMALL, contents
from test_processes import ON_LINUX, PLUGIN, ROOT, start, status, wait_for

RECIPE = [*SMALL, "train.epochs=50", "train.max_steps=60", "train.checkpoint_every_steps=5", "train.log_every=5", *PLUGIN]
RECIPE += ["losses.writes_its_pid={weight: 0}"]
SECONDS = 600  # for what takes a few where nothing else runs

pytestmark = ON_LINUX


Agents = Callable[..., list[subprocess.Popen]]


@contextlib.contextmanager
def starting() -> Iterator[Agents]:
    """What starts two agents, one process each, with the same command for the first start and for every other; none outlives the test."""
    started = []

    def agents(*options: str) -> list[subprocess.Popen]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            where = f"127.0.0.1:{free.getsockname()[1]}"
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d"]
        command += ["--rdzv-endpoint", where, "--rdzv-id", "run", "--local-addr", "127.0.0.1", *options, str(ROOT / "distill" / "run.py")]
        environment = {"GLOO_SOCKET_IFNAME": "lo", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # docs/machines.md says why
        both = [start(command, *RECIPE, "run_name=run", "--resume", **environment) for _ in range(2)]
        started.extend(both)
        for agent, core in zip(both, itertools.cycle(sorted(os.sched_getaffinity(0))), strict=False):
            os.sched_setaffinity(agent.pid, {core})  # before it starts its process, which would else have threads for all cores of this machine
        return both

    try:
        yield agents
    finally:
        for agent in started:
            agent.kill()  # its process then gets a SIGTERM


@pytest.fixture
def agents() -> Iterator[Agents]:
    with starting() as start_both:
        yield start_both


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The run that nothing happened to; of two agents too, as the number of threads decides in which order sums are taken."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch, starting() as start_both:
        patch.chdir(folder)
        patch.setenv("DISTILL_CACHE", str(folder / "cache"))
        said = finish(start_both())
        assert status("run")["state"] == "finished", said
    return folder / "runs" / "run"


def wait_for_checkpoint() -> None:
    wait_for("runs/run/checkpoints/latest", SECONDS)
    wait_for("pid-1", SECONDS)


def children(pid: int) -> list[int]:
    stats = {int(path.parent.name): _stat(path) for path in Path("/proc").glob("[0-9]*/stat")}
    return [child for child, fields in stats.items() if fields and fields[1] == str(pid)]


def _stat(path: Path) -> list[str]:
    try:
        return path.read_text().rpartition(")")[2].split()
    except OSError:  # it has ended meanwhile
        return []


def finish(processes: list[subprocess.Popen]) -> list[str]:
    """What each agent and its process have said on standard error, when all are done."""
    deadline = time.monotonic() + SECONDS
    return [process.communicate(timeout=max(1, deadline - time.monotonic()))[1] for process in processes]


def test_machine_that_is_lost_costs_what_came_after_the_last_checkpoint(agents, whole):
    """As when a machine loses its power: nothing there can save, and the other ends by itself. Then both are given the same command again."""
    ours, other = agents()
    wait_for_checkpoint()
    for pid in [*children(other.pid), other.pid]:
        os.kill(pid, signal.SIGKILL)
    finish([other, ours])
    assert ours.returncode not in (0, None)
    assert status("run")["state"] != "finished", "the run was over before anything was killed"
    ours, other = agents()
    said = finish([ours, other])
    assert (ours.returncode, other.returncode) == (0, 0), said
    assert "going on from step-" in "".join(said)
    assert "FutureWarning" not in "".join(said)
    assert contents("runs/run") == contents(whole)


@pytest.mark.slow
def test_process_that_dies_is_started_again_by_torchrun_and_goes_on(agents, whole):
    both = agents("--max-restarts", "2", "--monitor-interval", "0.1")
    wait_for_checkpoint()
    os.kill(int(Path("pid-1").read_text()), signal.SIGKILL)
    said = finish(both)
    assert [agent.returncode for agent in both] == [0, 0], said
    assert "going on from step-" in "".join(said)
    assert contents("runs/run") == contents(whole)
