"""Several real processes: stopping together, failing together, going on with another number of them, and launchers that die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from runs import EVERYTHING, SMALL, contents, metrics
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(ROOT / "distill" / "run.py")]
ONE = [sys.executable, str(ROOT / "distill" / "run.py")]
PLUGIN = ["--plugin", str(ROOT / "tests" / "odd_losses.py")]
# without batch norms and in float64, so that what two processes compute differs by rounding only
EXACT = [*SMALL, "train.precision=fp64", "student.model=resnet18", "student.norm=group", "losses.at.weight=10"]
EXACT += ["losses.ctkd={weight: 0.5}", "train.max_steps=8", "train.lr=0.01", "data.arguments={num_train: 40, num_val: 27, num_test: 27}"]
EXACT += ["train.ema_decay=0.9", "losses.asks_to_stop={weight: 0}", *PLUGIN]
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc; only Linux tells a process that its parent has died")
SLOW = [*SMALL, "train.epochs=4000", "train.max_steps=null"]


def start(command: list[str], *arguments: str, **environment: str) -> subprocess.Popen:
    inherited = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))}
    return subprocess.Popen([*command, *arguments], env=inherited | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(command: list[str], *arguments: str, code: int = 0, **environment: str) -> str:
    process = start(command, *arguments, **environment)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, out + err
    return err


def wait_for(path: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not Path(path).exists():
        assert time.monotonic() < deadline, f"{path} does not come"
        time.sleep(0.05)


def status(name: str) -> dict:
    return json.loads((Path("runs") / name / "status.json").read_text())


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def largest_difference(a: str, b: str) -> float:
    ours, theirs = load_file(Path("runs") / a / "student.safetensors"), load_file(Path("runs") / b / "student.safetensors")
    assert ours.keys() == theirs.keys()
    return max((ours[key].double() - theirs[key].double()).abs().max().item() for key in ours)


def test_one_process_then_two_then_one_is_one_process_throughout():
    run(ONE, *EXACT, "run_name=one")
    run(ONE, *EXACT, "run_name=mixed", code=75, STOP_AT="2")
    steps = [int(Path("runs/mixed/checkpoints/latest").read_text()[5:13])]
    err = run(TORCHRUN, "--resume", "runs/mixed", *PLUGIN, code=1, STOP_AT="3")
    assert "processes 1 then, 2 now" in err
    steps.append(int(Path("runs/mixed/checkpoints/latest").read_text()[5:13]))
    assert status("mixed")["exit_code"] == 75
    err = run(ONE, "--resume", "runs/mixed", *PLUGIN)
    assert "processes 2 then, 1 now" in err
    assert steps == [2, 5]
    assert largest_difference("one", "mixed") < 1e-12
    ours, theirs = metrics("runs/one"), metrics("runs/mixed")
    assert [line.keys() for line in ours] == [line.keys() for line in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert all(abs(a[key] - b[key]) < 1e-6 * max(1, abs(a[key])) for key in a if key != "event"), (a, b)


def test_two_processes_stopped_and_gone_on_with_give_the_same_bits_with_batch_norm():
    arguments = [*SMALL, *EVERYTHING, "train.max_steps=12", "losses.asks_to_stop={weight: 0}", *PLUGIN]
    run(TORCHRUN, *arguments, "run_name=whole")
    run(TORCHRUN, *arguments, "run_name=cut", code=1, STOP_AT="15")
    assert status("cut")["exit_code"] == 75
    assert (Path("runs/cut/checkpoints") / Path("runs/cut/checkpoints/latest").read_text() / "statistics.safetensors").exists()
    assert "going on from" in run(TORCHRUN, "--resume", "runs/cut", *PLUGIN)
    assert contents("runs/cut") == contents("runs/whole")


def test_batch_norms_of_two_processes_stay_within_the_documented_bound():
    """docs/reliability.md: 2 % of the weights' norm after the first step, with 64 pictures in each process."""
    options = ["--recipe", "r18_alone", "data.source=synthetic", "data.arguments={num_classes: 10, num_train: 256, num_val: 20, num_test: 20}"]
    options += ["data.global_batch_size=128", "train.precision=fp32", "train.warmup_epochs=0", "train.max_steps=1"]
    run(ONE, *options, "run_name=one")
    run(TORCHRUN, *options, "run_name=two")
    ours, theirs = (load_file(f"runs/{name}/student.safetensors") for name in ("one", "two"))
    weights = [name for name in ours if "running" not in name and "num_batches" not in name]
    a, b = (torch.cat([tensors[name].flatten() for name in weights]) for tensors in (ours, theirs))
    assert 0 < (a - b).norm() / a.norm() < 0.02


def test_frozen_parts_feature_losses_and_accumulation_need_no_search_for_unused_parameters():
    arguments = [*SMALL, "losses.ce=null", "losses.kd=null", "losses.at={weight: 100, layers: [layer2, layer3]}", "train.unused=freeze"]
    arguments += ["student.frozen=[conv1, bn1]", "train.accumulation=2", "student.model=resnet18", "student.norm=group", "train.precision=fp64"]
    arguments += ["train.max_steps=4"]
    run(ONE, *arguments, "run_name=one")
    err = run(TORCHRUN, *arguments, "run_name=two")
    assert "frozen, as train.unused=freeze says" in err
    assert largest_difference("one", "two") < 1e-12


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_torchrun_that_is_stopped_leaves_a_checkpoint_of_one_step(number):
    process = start(TORCHRUN, *SLOW, "run_name=slow", "train.checkpoint_every_minutes=1000", *PLUGIN, "losses.writes_its_pid={weight: 0}")
    wait_for("pid-1")
    time.sleep(1)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert status("slow")["state"] == "stopped", err
    assert status("slow")["exit_code"] == (75 if number == signal.SIGTERM else 130) or number == signal.SIGINT
    assert "to go on: distill train --resume runs/slow" in err
    assert Path("runs/slow/checkpoints/latest").exists()


AT_EXIT = """
import atexit, os
from pathlib import Path
import torch.distributed
from distill.losses.ce import CrossEntropy

class Plain(CrossEntropy):
    "A plug-in without a loss is refused."

@atexit.register
def say():
    Path("exit-" + os.environ["RANK"]).write_text(str(torch.distributed.is_initialized()))
"""


@pytest.mark.parametrize(("arguments", "code"), [([], 0), (["data.source=imagefolder", "data.root=nowhere", "~data.arguments"], 1)])
def test_processes_leave_their_group_before_they_end(arguments, code):
    """Else torch aborts one process in five or so, after all of its work is done."""
    Path("at_exit.py").write_text(AT_EXIT)
    run(TORCHRUN, *SMALL, "train.max_steps=1", "--plugin", "at_exit.py", *arguments, code=code)
    assert [Path(f"exit-{rank}").read_text() for rank in (0, 1)] == ["False", "False"]


def test_one_process_of_two_that_is_told_to_stop_tells_the_other():
    process = start(
        TORCHRUN,
        *SLOW,
        "run_name=slow",
        "train.checkpoint_every_minutes=1000",
        *PLUGIN,
        "losses.writes_its_pid={weight: 0}",
    )
    wait_for("pid-1")
    time.sleep(1)
    asked = time.monotonic()
    os.kill(int(Path("pid-1").read_text()), signal.SIGUSR1)
    while status("slow")["state"] == "running":
        assert time.monotonic() - asked < 5, "2 seconds to agree, and the time that it takes to save"
        time.sleep(0.01)
    process.communicate(timeout=60)
    assert status("slow") | {"pid": 0, "time": ""} == {"state": "stopped", "exit_code": 75, "reason": "stopped by SIGUSR1", "pid": 0, "time": ""}


@pytest.mark.parametrize("how", ["raises", "is_killed"])
def test_process_that_fails_takes_the_other_with_it(how):
    began = time.monotonic()
    process = start(TORCHRUN, *SLOW, "run_name=slow", *PLUGIN, f"losses.fails={{weight: 0, how: {how}}}")
    _, err = process.communicate(timeout=90)
    assert process.returncode != 0
    assert time.monotonic() - began < 60
    if how == "raises":
        assert "error (process 1): the second process has had enough" in err
        assert status("slow")["reason"] == "the second process has had enough"
        assert status("slow")["state"] == "failed"
    assert "unexpected" not in err


def test_value_that_is_not_finite_in_one_process_stops_both():
    """Sample 7 is in the batch of one of them; the gradient, which they share, is not finite in both."""
    err = run(TORCHRUN, *SMALL, *PLUGIN, "losses.not_finite={weight: 1, sample_id: 7, view: 1}", "run_name=bad", code=1)
    assert err.count("the loss 'not_finite' is inf") == 1
    assert "unexpected" not in err
    found = json.loads(Path("runs/bad/diverged.json").read_text())
    assert found["terms"] == ["not_finite"]
    assert 7 in found["sample_ids"]
    assert len(found["sample_ids"]) == 8
    assert status("bad")["exit_code"] == 4


@ON_LINUX
@pytest.mark.parametrize("launcher", ["accelerate", "torchrun"])
def test_processes_end_with_their_launcher(launcher):
    command = [sys.executable, "-m", "accelerate.commands.launch", str(ROOT / "distill" / "run.py")] if launcher == "accelerate" else TORCHRUN
    process = start(command, *SLOW, "run_name=slow", "train.checkpoint_every_minutes=1000", *PLUGIN, "losses.writes_its_pid={weight: 0}")
    wait_for("pid-0")
    pids = [int(path.read_text()) for path in Path().glob("pid-*")]
    time.sleep(1)
    process.kill()
    deadline = time.monotonic() + 30
    while any(map(alive, pids)):
        assert time.monotonic() < deadline, "a process has outlived its launcher"
        time.sleep(0.1)
    process.communicate(timeout=30)
    assert status("slow")["state"] == "stopped"
    assert Path("runs/slow/checkpoints/latest").exists()


@ON_LINUX
def test_loader_that_is_killed_ends_the_run_with_a_message(tmp_path):
    from test_bad_input import folder

    folder({"cat": 40, "dog": 40})
    options = ["data.source=imagefolder", "data.root=pictures", "data.image_size=32", "data.workers=1", "~data.arguments"]
    process = start(ONE, *SLOW, *options, "run_name=slow", *PLUGIN, "losses.writes_its_pid={weight: 0}")
    wait_for("pid-0")
    parents = {int(path.parent.name): path.read_text().rpartition(")")[2].split()[1] for path in Path("/proc").glob("[0-9]*/stat")}
    workers = [pid for pid, parent in parents.items() if parent == str(process.pid)]
    assert len(workers) >= 1
    os.kill(workers[0], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 3, err
    assert "a process that reads pictures has died" in err
    assert status("slow")["exit_code"] == 3
