"""The short form of the campaign: three real kills."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def test_killed_runs_that_are_gone_on_with_are_equal_to_the_run_that_was_not():
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join((str(HERE), str(HERE.parent)))}
    command = [sys.executable, str(HERE / "kills.py"), "--kills", "3"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "3 of 3 runs" in result.stdout
