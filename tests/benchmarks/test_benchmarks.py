"""Every benchmark runs, small, and leaves figures with what they hold for. No test looks at a time."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks import cells, memory, work
from benchmarks.children import environment_of_child
from distill.doctor import ceilings
from distill.record import available_cores

SMALL = ["--teacher", "resnet18", "--image-size", "32", "--batch-size", "4"]
BENCHMARKS = {
    "step": [*SMALL, "--steps", "1", "--rounds", "2", "--only", "hand_written"],
    "cache": [*SMALL, "--steps", "1", "--rounds", "2"],
    "losses": ["--losses", "kd", "--rounds", "2", "--image-size", "32", "--batch-size", "4"],
    "overhead": ["--steps", "5", "--rounds", "2"],
    "memory": [*SMALL, "--steps", "5", "--block", "1", "--repeats", "1"],
    "scaling": [*SMALL, "--steps", "1", "--rounds", "2", "--batch-size", "16"],
    "matrix": ["--pairs", "resnet18:resnet18", "--sizes", "32", "--batches", "4", "--precisions", "fp32", "--block", "1", "--seconds", "0"],
}
ALL = [*BENCHMARKS, "loader"]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Neither these processes nor those that they start share such small work among threads."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(available_cores()))
    monkeypatch.setattr(ceilings, "_ON_CPU", (64, (2, 4, 8), 1 << 16))


def run(name: str, *arguments: str) -> None:
    importlib.import_module(f"benchmarks.{name}").main(list(arguments))


def measured(name: str, *arguments: str) -> tuple[dict, str]:
    """(what --json got, what --markdown got)"""
    run(name, *arguments, "--quick", "--json", "found.json", "--markdown", "found.md")
    return json.loads(Path("found.json").read_text()), Path("found.md").read_text()


def require_conditions(found: dict, table: str, name: str) -> None:
    environment = found["environment"]
    assert environment["command"].startswith(f"python -m benchmarks.{name} ")
    assert environment["num_threads"] >= 1
    assert environment["versions"]["torch"] in table
    assert environment["date"] in table
    assert environment["command"] in table
    assert found["clock"] in table
    assert found["settings"]["quick"] is True


def require_ratio(found: dict) -> None:
    assert 0 < found["low"] <= found["ratio"] <= found["high"]


def test_step_writes_the_ratio_to_each_contender():
    found, table = measured("step", *BENCHMARKS["step"])
    require_conditions(found, table, "step")
    require_ratio(found["hand_written"])
    assert found["hand_written"]["num_pairs"] == 2
    assert found["images_per_second"].keys() == {"framework", "hand_written"}
    assert "| hand_written |" in table


def test_step_with_everything_leaves_out_who_can_not(capsys):
    found, _ = measured("step", *BENCHMARKS["step"][:-2], "--everything")
    assert found["images_per_second"].keys() == {"framework", "hand_written", "framework_cached"}
    with pytest.raises(SystemExit):
        run("step", "--everything", "--only", "naive", "hand_written")
    assert "naive has no moving average" in capsys.readouterr().err


def test_cache_writes_what_kept_answers_bring():
    found, table = measured("cache", *BENCHMARKS["cache"])
    require_conditions(found, table, "cache")
    for name in ("most", "memory.speed_up", "map.speed_up", "memory.of_the_most", "filling"):
        require_ratio(found[name])


def test_losses_writes_what_the_page_of_losses_reads():
    found, table = measured("losses", *BENCHMARKS["losses"])
    require_conditions(found, table, "losses")
    assert found["losses"]["kd"].keys() == {"time_ratio", "low", "high", "num_pairs", "memory_ratio"}
    assert found["setting"] == {"image_size": 32, "batch_size": 4, "num_classes": 100, "ce_alone_peak_bytes": found["setting"]["ce_alone_peak_bytes"]}


@pytest.mark.slow
def test_loader_writes_speeds_and_what_they_are_compared_with():
    """In a process of its own, because it forks."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.loader",
        "--quick",
        "--rounds",
        "1",
        "--batches",
        "1",
        "--json",
        "found.json",
        "--markdown",
        "found.md",
    ]
    subprocess.run(command, check=True, env=environment_of_child(), stdout=subprocess.DEVNULL)
    found, table = json.loads(Path("found.json").read_text()), Path("found.md").read_text()
    require_conditions(found, table, "loader")
    require_ratio(found["loader / bare loop"])
    assert "| packed, 2 workers |" in table


def test_overhead_writes_the_frameworks_own_part():
    found, table = measured("overhead", *BENCHMARKS["overhead"])
    require_conditions(found, table, "overhead")
    assert found["own"]["low"] <= found["own"]["difference"] <= found["own"]["high"]
    assert found["us_per_step"].keys() == {"framework", "hand_written", "loader", "views"}
    assert found["target_us"] == 150


def test_memory_compares_processes_and_counts_tensors():
    found, table = measured("memory", *BENCHMARKS["memory"])
    require_conditions(found, table, "memory")
    for name in ("peak", "rise", "tensors"):
        require_ratio(found[name])
    assert found["tensors"]["ratio"] == pytest.approx(1, abs=0.05)
    rows = found["processes"]["framework"]
    assert len(rows[0]["samples"]) == 5
    assert rows[0]["peak"] >= max(rows[0]["samples"])
    assert len(found["tensor_bytes"]["framework"]) == 1
    assert "growth" in table


def test_slope_is_that_of_the_settled_samples():
    """Ten samples, two steps apart: two that are left out, then 6 bytes more each time."""
    samples = [900, 0, *range(100, 148, 6)]
    assert memory.slope_of([{"samples": samples}], block=2).difference == pytest.approx(3)


def test_scaling_compares_groups_that_saw_the_same_pictures(all_cores):
    found, table = measured("scaling", *BENCHMARKS["scaling"])
    require_conditions(found, table, "scaling")
    require_ratio(found["throughput"])
    assert found["images_per_second"].keys() == found["losses"].keys() == {"1", "2"}
    assert found["environment"]["num_processes"] == 2


def test_matrix_passes_over_cells_that_are_there(monkeypatch):
    found, table = measured("matrix", *BENCHMARKS["matrix"])
    require_conditions(found, table, "matrix")
    assert list(found["cells"]) == [f"resnet18->resnet18 32px b4 fp32 eager {teacher}" for teacher in ("online", "cached")]
    online, cached = found["cells"].values()
    assert online["flop"] > cached["flop"]
    assert online["num_blocks"] == 3
    monkeypatch.setattr("benchmarks.matrix.measure", lambda *_: pytest.fail("measured once more"))
    again, same_table = measured("matrix", *BENCHMARKS["matrix"])
    assert again["cells"] == found["cells"]
    assert same_table.splitlines()[:6] == table.splitlines()[:6]


def test_matrix_goes_on_after_a_cell_without_memory(monkeypatch):
    def out_of_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(cells, "_measure", out_of_memory)
    found, table = measured("matrix", *BENCHMARKS["matrix"])
    assert [cell["failed"] for cell in found["cells"].values()] == ["out of memory"] * 2
    assert table.count("out of memory") == 2


def test_matrix_does_not_go_on_with_another_machines_cells(capsys):
    environment = {"processor": "another", "num_cores": 1, "device": "cpu", "versions": {}}
    Path("found.json").write_text(json.dumps({"cells": {}, "ceilings": {}, "environment": environment}))
    with pytest.raises(SystemExit):
        run("matrix", "--json", "found.json")
    assert "its cells are of another processor" in capsys.readouterr().err
    Path("found.json").write_text("[]")
    with pytest.raises(SystemExit):
        run("matrix", "--json", "found.json")
    assert "was not written by this benchmark" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--precisions", "fp8"], "fp8 is none of fp32, tf32, bf16"),
        (["--sizes", "64,big"], "numbers from 1 up"),
        (["--pairs", "resnet50"], "as in resnet50:resnet18"),
    ],
)
def test_matrix_refuses_what_is_no_cell(arguments, words, capsys):
    with pytest.raises(SystemExit):
        run("matrix", *arguments)
    assert words in capsys.readouterr().err


def test_work_of_a_step_is_that_of_the_architectures():
    """ResNet-18 and ResNet-50 at 224 pixels: 1.814e9 and 4.089e9 multiply-accumulates forward; training is three times that, but for the gradient to
    the pictures, 0.118e9."""
    step = work.work_of_step("resnet18", "resnet50", batch_size=2, image_size=224, num_classes=1000, dtype=torch.float32)
    assert step.flop / 2 / 2e9 == pytest.approx(3 * 1.814 - 0.118 + 4.089, abs=0.003)


@pytest.mark.parametrize("name", ALL)
def test_place_that_can_not_be_written_is_refused_before_anything_is_measured(name, monkeypatch, capsys):
    monkeypatch.setattr(f"benchmarks.{name}.{'torch.cuda.is_available' if name == 'scaling' else 'processes'}", lambda: pytest.fail("too late"))
    Path("folder").mkdir()
    for arguments, words in (
        (["--json", "folder"], "--json folder: is a folder"),
        (["--markdown", "nowhere/found.md"], "there is no folder nowhere"),
        (["--json", "same", "--markdown", "./same"], "are the same file"),
    ):
        with pytest.raises(SystemExit) as error:
            run(name, *arguments)
        assert error.value.code == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, words", [(["--processes", "1"], "2 at least"), (["--processes", "5000"], "core"), (["--batch-size", "63"], "divided")]
)
def test_scaling_refuses_groups_that_can_not_be(arguments, words, capsys, all_cores):
    with pytest.raises(SystemExit):
        run("scaling", *arguments)
    assert words in capsys.readouterr().err
