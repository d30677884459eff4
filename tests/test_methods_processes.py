"""Methods on two real processes: what one process gives, up to rounding."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from methods_processes import METHODS, trained
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> Path:
    """The folder in which each of two processes has left what it has trained."""
    folder = tmp_path_factory.mktemp("two")
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = [str(ROOT / "tests" / "methods_processes.py"), str(folder)]
    result = subprocess.run([*command, *script], env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_give_what_one_gives(method, two_processes):
    alone = trained(method)
    for process in (0, 1):
        theirs = load_file(two_processes / f"{method}-{process}.safetensors")
        assert theirs.keys() == alone.keys()
        assert max((theirs[name].double() - alone[name].double()).abs().max().item() for name in alone) < 1e-12
