"""The documented commands, run for real: through Accelerate's launcher, from elsewhere, on two processes, from an installed wheel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

LAUNCH = [sys.executable, "-m", "accelerate.commands.launch"]
TWO_PROCESSES = [*LAUNCH, "--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]


def run(command: list[str], cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Without the checkout on the path: the command must find the package by itself."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "OMP_NUM_THREADS")}
    result = subprocess.run(command, cwd=cwd, env=inherited | environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    return result


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_readmes_launch_command_runs_from_the_checkout(tmp_path):
    result = run([*LAUNCH, "distill/run.py", "--recipe", "smoke", f"runs_dir={tmp_path}"], ROOT)
    summary, status = read(tmp_path / "smoke-seed0" / "summary.json"), read(tmp_path / "smoke-seed0" / "status.json")
    assert status["state"] == "finished"
    for role in ("teacher", "alone", "distilled"):
        assert {"val_top1", "test_top1", "num_parameters", "gmacs", "images_per_second"} <= set(summary[role])
        assert 0 <= summary[role]["test_top1"] <= 1
    assert "distilled student" in result.stdout
    assert (tmp_path / "smoke-seed0-alone" / "summary.json").exists()


def test_launch_command_runs_from_elsewhere_and_uses_all_cores(tmp_path):
    probe = "import sys; sys.argv = ['run.py', *sys.argv[1:]]; import runpy, torch; sys.path.insert(0, ''); "
    probe += f"\ntry: runpy.run_path({str(ROOT / 'distill' / 'run.py')!r}, run_name='__main__')\nfinally: print('threads', torch.get_num_threads())"
    (tmp_path / "probe.py").write_text(probe)
    result = run([*LAUNCH, "probe.py", "--recipe", "smoke"], tmp_path)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert f"threads {cores}" in result.stdout
    assert (tmp_path / "runs" / "smoke-seed0" / "student.safetensors").exists()


def test_launch_command_by_path_runs_from_elsewhere_without_an_installed_package(tmp_path):
    """`-S`-like isolation is not needed: run.py puts its own checkout first."""
    run([sys.executable, str(ROOT / "distill" / "run.py"), "--recipe", "smoke", "control=false"], tmp_path)
    assert read(tmp_path / "runs" / "smoke-seed0" / "status.json")["exit_code"] == 0


def test_two_processes_train_and_score_as_one(tmp_path):
    """Sizes that two processes can't share evenly; float64 and no BatchNorm (fitnet's projector has one), so that sums differ by rounding only."""
    recipe = ["--recipe", "smoke", "train.precision=fp64", "student.norm=group", "teacher.norm=group", "control=false", "train.max_steps=3"]
    recipe += ["losses.at.weight=10", "data.arguments.num_val=37", "data.arguments.num_test=41", "train.lr=0.01"]
    run([*TWO_PROCESSES, "--main_process_port", "0", str(ROOT / "distill" / "run.py"), *recipe, "run_name=two"], tmp_path, ACCELERATE_USE_CPU="true")
    run([sys.executable, str(ROOT / "distill" / "run.py"), *recipe, "run_name=one"], tmp_path, ACCELERATE_USE_CPU="true")
    two, one = tmp_path / "runs" / "two", tmp_path / "runs" / "one"
    assert read(two / "environment.json")["num_processes"] == 2
    assert read(one / "environment.json")["num_processes"] == 1
    from safetensors.torch import load_file

    ours, theirs = load_file(one / "student.safetensors"), load_file(two / "student.safetensors")
    assert ours.keys() == theirs.keys()
    assert max((ours[key] - theirs[key]).abs().max().item() for key in ours) < 1e-12
    for role in ("teacher", "distilled"):
        for part in ("val", "test"):
            assert read(one / "summary.json")[role][f"{part}_top1"] == read(two / "summary.json")[role][f"{part}_top1"]
    assert len((two / "metrics.jsonl").read_text().splitlines()) == len((one / "metrics.jsonl").read_text().splitlines())


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The wheel, built without a network and installed in a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)], folder)
    (wheel,) = folder.glob("distill-*.whl")
    run([*pip, "install", "--no-deps", "--no-index", "--target", str(folder / "site"), str(wheel)], folder)
    return folder / "site"


def test_installed_wheel_finds_its_recipes_and_runs_one(installed, tmp_path):
    where = "import distill, sys; print(distill.__file__)"
    assert str(installed) in run([sys.executable, "-c", where], tmp_path, PYTHONPATH=str(installed)).stdout
    command = [sys.executable, "-m", "distill", "train", "--recipe", "smoke", "control=false"]
    run(command, tmp_path, PYTHONPATH=str(installed))
    assert (tmp_path / "runs" / "smoke-seed0" / "summary.json").exists()
    assert (installed / "distill" / "recipes" / "imagenet" / "r50_to_r18.yaml").exists()
    assert (installed / "distill" / "data" / "sources" / "fashion_mnist" / "LICENSE").exists()


def test_help_and_wrong_recipe_names_do_not_import_torch(tmp_path):
    code = "import sys, distill.cli as cli\ntry: cli.main(sys.argv[1:])\nexcept SystemExit: pass\nassert 'torch' not in sys.modules, 'imports torch'"
    for arguments in (["--help"], ["train", "--help"], ["train", "--recipe", "r50_to_r81"]):
        run([sys.executable, "-c", code, *arguments], tmp_path)


@pytest.mark.parametrize("words", [["losses", "list"], ["train", "--recipe", "smoke", "--dry-run"]])
def test_reader_that_has_gone_away_is_no_error_of_ours(words):
    reader, writer = os.pipe()
    os.close(reader)  # as head does when it has seen enough
    try:
        result = subprocess.run([sys.executable, "-m", "distill", *words], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120, cwd=ROOT)
    finally:
        os.close(writer)
    assert (result.returncode, result.stderr) == (1, "")
