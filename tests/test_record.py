"""Run folders: names, locks, and files that are never half there."""

import json
from pathlib import Path

import pytest

from distill.errors import DataError
from distill.recipe_files import load_recipe
from distill.record import RunFolder, finished_runs, read_json, write_text
from distill.run_folders import claim_new as claim

RECIPE = load_recipe("smoke")


def finish(folder: RunFolder) -> None:
    folder.append({"event": "train", "step": 1})
    folder.write_json("summary.json", {"fingerprint": folder.path.name})
    folder.set_status("finished", exit_code=0)
    folder.close()


def test_names_count_up_from_two():
    names = []
    for _ in range(3):
        folder = claim(Path("runs"), "kd", RECIPE, is_fixed=False)
        names.append(folder.path.name)
        finish(folder)
    assert names == ["kd", "kd-2", "kd-3"]
    assert {summary["fingerprint"] for _, summary in finished_runs(Path("runs"))} == set(names)


def test_folder_of_a_run_that_never_trained_is_used_again():
    first = claim(Path("runs"), "kd", RECIPE, is_fixed=True)
    first.write_text("recipe.resolved.yaml", "seed: 0\n")
    first.set_status("failed", exit_code=2, reason="a typo")
    first.close()
    assert claim(Path("runs"), "kd", RECIPE, is_fixed=True).path == first.path


def test_folder_with_foreign_files_is_left_alone():
    Path("runs/kd").mkdir(parents=True)
    Path("runs/kd/thesis.tex").write_text("years of work")
    assert claim(Path("runs"), "kd", RECIPE, is_fixed=False).path.name == "kd-2"
    with pytest.raises(DataError, match="holds a run already"):
        claim(Path("runs"), "kd", RECIPE, is_fixed=True)


def test_folder_in_use_is_passed_by_or_refused():
    held = claim(Path("runs"), "kd", RECIPE, is_fixed=False)
    held.set_status("running")
    assert claim(Path("runs"), "kd", RECIPE, is_fixed=False).path.name == "kd-2"
    with pytest.raises(DataError, match=r"another job \(process \d+\) is working in runs/kd"):
        claim(Path("runs"), "kd", RECIPE, is_fixed=True)


def test_values_that_are_not_finite_are_written_as_null():
    folder = claim(Path("runs"), "kd", RECIPE, is_fixed=False)
    folder.append({"loss": float("nan"), "top1": 0.5, "event": "train"})
    assert json.loads((folder.path / "metrics.jsonl").read_text()) == {"loss": None, "top1": 0.5, "event": "train"}


def test_failed_write_keeps_the_old_file(monkeypatch):
    write_text(Path("a.json"), '{"old": 1}')
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_text(Path("a.json"), '{"new": 2}')
    assert read_json(Path("a.json")) == {"old": 1}


def test_missing_and_torn_files_read_as_empty():
    Path("torn.json").write_text('{"a": ')
    assert read_json(Path("torn.json")) == read_json(Path("none.json")) == {}
