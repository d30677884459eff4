"""Two machines that don't see the same files: said before training, and not found out when a run is to be gone on with."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from runs import SMALL
from test_processes import ROOT

SECONDS = 240  # for what takes a few where nothing else runs


def start_both(*options: str, second: list[str] = ()) -> tuple[list[int], str]:
    """Two processes without a launcher, as srun starts them, each in a folder of its own; second: what only the second one is told besides. Returns
    their exit codes, and what they have said on standard error."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = []
    for rank in ("0", "1"):
        Path(f"machine-{rank}").mkdir()
        environment = {"RANK": rank, "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", "import distill.machines as m, sys; m.SECONDS = 0.5; from distill.cli import main; sys.exit(main())"]
        command += ["train", *SMALL, "train.max_steps=2", "run_name=run", *options, *(second if rank == "1" else ())]
        processes.append(
            subprocess.Popen(command, cwd=f"machine-{rank}", env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    said = [process.communicate(timeout=SECONDS)[1] for process in processes]
    return [process.returncode for process in processes], "".join(said)


def test_run_folder_that_one_machine_does_not_see_is_an_error_that_names_both(tmp_path):
    codes, said = start_both()
    assert codes == [3, 3], said
    assert f"process 1 on {socket.gethostname()} does not see {tmp_path / 'machine-1' / 'runs' / 'run'}" in said
    assert said.count("error") == 1, "the first process speaks for all"
    status = json.loads(Path("machine-0/runs/run/status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("failed", 3)


def test_pictures_that_are_others_on_one_machine_are_an_error(tmp_path):
    codes, said = start_both(f"runs_dir={tmp_path / 'runs'}", second=["data.arguments.seed=1"])
    assert codes == [3, 3], said
    assert "process 1 on" in said
    assert "sees other pictures than process 0" in said
