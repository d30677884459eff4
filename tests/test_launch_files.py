"""docs/launch and docs/machines.md: every command that calls distill is one that distill takes, and every file is one that its engine can read."""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch.distributed.run
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser

ROOT = Path(__file__).resolve().parent.parent
FOLDER, PAGE = ROOT / "docs" / "launch", ROOT / "docs" / "machines.md"
_DISTILL = re.compile(r"distill/run\.py|(?<![\w/])distill train|-m distill train")


def text(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def kubeflow_command() -> str:
    trainer = yaml.safe_load(text("kubeflow_trainjob.yaml"))["spec"]["trainer"]
    return shlex.join([*trainer["command"], *trainer["args"]])


def shell_lines(shell: str) -> list[str]:
    """Its lines that call distill, each with what it continues in."""
    lines = (line.strip().removeprefix("#") for line in re.sub(r"\\\n[#\s]*", " ", shell).splitlines())
    return [" ".join(shlex.split(line, comments=True)) for line in lines if _DISTILL.search(line)]


def commands() -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    found = [line for block in blocks for line in shell_lines(block)]
    for name in ("slurm.sbatch", "torchrun_two_hosts.sh", "accelerate_two_nodes.yaml"):
        found += shell_lines(text(name))
    return [*found, *shell_lines(yaml.safe_load(text("skypilot.yaml"))["run"]), kubeflow_command()]


def arguments_of(command: str) -> list[str]:
    """What distill itself is given, as `distill` takes it."""
    return ["train", *shlex.split(command[_DISTILL.search(command).end() :])]


@pytest.mark.parametrize("command", commands())
def test_each_command_that_calls_distill_is_valid(command, distill):
    code, out, err = distill(*arguments_of(command), "--dry-run")
    assert code == 0, err
    assert "student.model" in out


@pytest.mark.parametrize("command", [command for command in commands() if "torchrun " in command])
def test_each_torchrun_has_the_options_that_it_is_given(command):
    words = shlex.split(command[command.index("torchrun ") :].replace("$(echo $SKYPILOT_NODE_IPS | head -n 1)", "HOST"))[1:]
    numbers = {"$SKYPILOT_NUM_NODES": "2", "$SKYPILOT_NODE_RANK": "0"}
    options = torch.distributed.run.parse_args([numbers.get(word, word) for word in words])
    assert options.training_script in ("distill/run.py", "distill")


@pytest.mark.parametrize("command", [command for command in commands() if "accelerate launch" in command])
def test_each_accelerate_launch_has_the_options_that_it_is_given(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    options = launch_command_parser().parse_args(shlex.split(command[command.index("accelerate launch") :])[2:])
    assert options.training_script == "distill/run.py"
    assert options.config_file is None or Path(options.config_file).is_file()


def test_accelerates_file_is_one_for_two_machines():
    """Accelerate refuses keys that it does not know."""
    config = load_config_from_file(str(FOLDER / "accelerate_two_nodes.yaml"))
    assert (config.num_machines, config.num_processes, config.machine_rank) == (2, 16, 0)


def test_shell_scripts_can_be_read_by_bash():
    for name in ("slurm.sbatch", "torchrun_two_hosts.sh"):
        assert subprocess.run(["bash", "-n", str(FOLDER / name)], capture_output=True, timeout=60).stderr == b""
    run = yaml.safe_load(text("skypilot.yaml"))["run"]
    assert subprocess.run(["bash", "-n"], input=run.encode(), capture_output=True, timeout=60).stderr == b""


def test_rays_script_hands_the_recipe_to_every_worker_and_goes_on_with_a_run(monkeypatch):
    """Ray itself is no part of the tests: what it is given is looked at, and what it would call is called."""
    given: dict = {}

    def trainer(loop, **options):
        given.update(options, loop=loop)
        return argparse.Namespace(fit=lambda: loop(options["train_loop_config"]))

    plain = {name: lambda **options: options for name in ("FailureConfig", "RunConfig", "ScalingConfig")}
    for name, names in (("ray", {}), ("ray.train", plain), ("ray.train.torch", {"TorchTrainer": trainer})):
        module = types.ModuleType(name)
        vars(module).update(names)
        monkeypatch.setitem(sys.modules, name, module)
    called: list = []
    monkeypatch.setattr("distill.train", lambda *words, **options: called.append((words, options)))
    monkeypatch.setattr(sys, "argv", ["ray_train.py", "smoke", "seed=1", "--workers", "16", "--gpus", "train.epochs=3"])
    runpy.run_path(str(FOLDER / "ray_train.py"), run_name="__main__")
    assert called == [(("smoke", ["seed=1", "train.epochs=3"]), {"resume": True})]
    assert given["scaling_config"] == {"num_workers": 16, "use_gpu": True}
    assert given["run_config"] == {"failure_config": {"max_failures": 3}}
