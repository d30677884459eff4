"""Two real processes: nothing drifts apart, and what relates samples to each other sees all of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def start(script: str, *arguments: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment |= {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(ROOT / "tests" / script), *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("both agree") == 2


def test_weights_projectors_averages_and_batch_statistics_agree_between_processes():
    start("two_processes.py")


@pytest.mark.parametrize("precision", ["fp64", "fp32"])
def test_losses_on_two_processes_are_those_of_one_process_with_the_whole_batch(precision):
    start("coupled_losses.py", precision)


def test_own_loop_on_two_processes_is_that_of_one_and_train_gives_each_the_run():
    start("own_loop_processes.py")
