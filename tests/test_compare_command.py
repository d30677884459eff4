"""`distill compare`: what it trains, what it passes over, what it prints, and what it refuses."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_runs import recipe, write_run, write_study

from distill import cli
from distill.recipe_files import fingerprint, load_recipe
from distill.report.runs import read_run
from distill.resolve import Catalogue
from distill.student_alone import control_recipe
from distill.study.matrix import cells
from distill.study.wish import Wish

TINY = ["student.model=timm/test_resnet", "teacher.model=timm/test_resnet", "data.arguments={num_train: 40, num_val: 24, num_test: 24}"]
STUDY = """
recipes: [smoke]
seeds: 1
overrides: {student: {model: timm/test_resnet}, teacher: {model: timm/test_resnet}, data: {arguments: {num_train: 40, num_val: 24, num_test: 24}}}
variants:
  plain: {}
  wild: {losses: {kd: {weight: 1e38}}}
"""


def planned(**wish) -> list:
    return cells(Wish(**({"recipes": ["smoke"], "seeds": [0, 1], "overrides": TINY} | wish)), Catalogue())


def test_student_alone_is_always_there_and_is_the_control_of_the_others():
    made = planned(losses=["kd", "dist"])
    assert [(cell.row, cell.seed) for cell in made] == [
        ("smoke-test_resnet-alone", 0),
        ("smoke-test_resnet-alone", 1),
        ("smoke-kd", 0),
        ("smoke-dist", 0),
        ("smoke-kd", 1),
        ("smoke-dist", 1),
    ]
    alone = made[0].recipe
    for cell in made[2:]:
        assert fingerprint(control_recipe(cell.recipe).model_copy(update={"seed": 0})) == fingerprint(alone)
        assert cell.recipe.control is False
    assert made[3].recipe.losses == load_recipe("losses/dist").losses
    assert made[2].recipe.losses == load_recipe("smoke").losses, "a recipe's only loss keeps its own weights"
    assert planned(losses=["kd", "dist"], overrides=[*TINY, "losses.at={weight: 1}"])[2].recipe.losses == load_recipe("losses/kd").losses


def test_cells_of_one_seed_share_all_but_the_losses():
    first, second = (cell.recipe for cell in planned(losses=["kd", "dist"]) if cell.seed == 1 and cell.recipe.teacher)
    for part in ("student", "teacher", "data", "train", "seed"):
        assert getattr(first, part) == getattr(second, part)


def test_students_and_teachers_multiply_and_each_student_has_its_own_control():
    made = planned(seeds=[0], students=["resnet18", "timm/test_resnet"], teachers=["resnet50", "resnet101"])
    assert [cell.row for cell in made] == [
        "smoke-resnet18-alone-1",
        "smoke-test_resnet-alone-2",
        "smoke-resnet50-resnet18",
        "smoke-resnet101-resnet18",
        "smoke-resnet50-test_resnet",
        "smoke-resnet101-test_resnet",
    ]


def test_ablation_leaves_out_one_loss_at_a_time():
    made = planned(seeds=[0], ablate=True, overrides=[*TINY, "losses.at={weight: 100, layers: [layer2]}"])
    assert [cell.row for cell in made] == ["smoke-test_resnet-alone", "smoke", "smoke-without_kd", "smoke-without_at"]
    assert [list(cell.recipe.losses) for cell in made] == [["ce"], ["ce", "kd", "at"], ["ce", "at"], ["ce", "kd"]]


def test_plan_prints_commands_that_begin_the_same_runs(distill):
    code, out, _ = distill("compare", "smoke", "--losses", "kd,dist", "--seeds", "2", *TINY, "--plan")
    assert code == 0
    made = planned(losses=["kd", "dist"])
    assert len(out.splitlines()) == len(made)
    for line, cell in zip(out.splitlines(), made, strict=True):
        program, *words = shlex.split(line)
        assert program == "distill"
        assert words[-1] == "--resume"
        shown = distill(*words[:-1], "--dry-run")
        assert shown[0] == 0
        assert f"{cell.recipe.run_name} " in shown[1]
        overrides = [word for word in words[3:-1] if not word.startswith("--")]
        assert load_recipe(words[2], overrides) == cell.recipe
    assert not Path("runs").exists()
    _, out, _ = distill("compare", "smoke", "--seeds", "1", *TINY, "--plan", "--launcher", "accelerate launch --cpu")
    assert out.startswith("accelerate launch --cpu distill/run.py --recipe smoke ")


def start(*words: str) -> subprocess.Popen:
    command = [sys.executable, "-c", "import sys; from distill.cli import main; sys.exit(main(sys.argv[1:]))", "compare", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_matrix_is_trained_and_compared_and_a_cell_that_fails_takes_none_with_it():
    Path("study.yaml").write_text(STUDY)
    process = start("study.yaml", "--json")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1, err
    assert "1 run(s) failed; the same command tries them again" in err
    assert "smoke-wild, seed 0 (exit code 4)" in err
    rows = json.loads(out)["rows"]
    assert [row["name"] for row in rows] == ["timm/test_resnet alone", "smoke-plain"]
    assert rows[1]["compared_with"] == "timm/test_resnet alone"
    alone, plain = (read_run(Path("runs") / name) for name in ("smoke-test_resnet-alone-seed0", "smoke-plain-seed0"))
    assert rows[1]["difference"] == pytest.approx(plain.row["test_top1"] - alone.row["test_top1"])


def test_finished_cells_are_passed_over(distill, monkeypatch):
    monkeypatch.setattr("distill.study.run._run", lambda cell, _launcher: pytest.fail(f"{cell.row} is not missing"))
    made = planned(losses=["kd", "dist"])
    for cell in made:
        write_run(cell.recipe.run_name, 800 + 10 * cell.seed + len(cell.recipe.losses), cell.recipe.model_dump(mode="json"))
    code, out, err = distill("compare", "smoke", "--losses", "kd,dist", "--seeds", "2", *TINY)
    assert code == 0
    assert "6 runs, 6 of them finished already" in err
    assert "kd is +0.10 points to the same student alone in each of 2 paired seeds" in out
    code, out, _ = distill("compare", "smoke", "--losses", "kd,dist", "--seeds", "2", *TINY, "--plan")
    assert out.count("  # finished\n") == 6


def test_student_alone_that_a_run_has_beside_it_is_not_trained_again(distill, monkeypatch):
    monkeypatch.setattr("distill.study.run._run", lambda cell, _launcher: pytest.fail(f"{cell.row} is not missing"))
    for cell in planned():
        is_alone = cell.row.endswith("alone")
        values = load_recipe("smoke", [*TINY, f"seed={cell.seed}"])  # as train leaves both
        values = (control_recipe(values) if is_alone else values).model_dump(mode="json")
        write_run(f"smoke-seed{cell.seed}-alone" if is_alone else f"smoke-seed{cell.seed}", 800 + 10 * cell.seed + len(values["losses"]), values)
    other = load_recipe("smoke", [*TINY, "seed=2", "train.lr=0.02"])
    write_run("smoke-seed2-alone", 700, control_recipe(other).model_dump(mode="json"))
    assert [cell.folder.name for cell in planned(seeds=[0, 1, 2])[:3]] == ["smoke-seed0-alone", "smoke-seed1-alone", "smoke-test_resnet-alone-seed2"]
    code, out, err = distill("compare", "smoke", "--seeds", "2", *TINY)
    assert code == 0
    assert "4 runs, 4 of them finished already" in err
    assert "smoke is +0.10 points to the same student alone in each of 2 paired seeds" in out


def test_begun_cell_is_gone_on_with_and_a_killed_one_is_reported(distill, monkeypatch):
    made, asked = planned(losses=["kd"], seeds=[0]), []

    def run(cell, _launcher) -> int:
        asked.append(cell.row)
        if cell.row == "smoke-kd":
            return -9
        write_run(cell.recipe.run_name, 800, cell.recipe.model_dump(mode="json"))
        return 0

    monkeypatch.setattr("distill.study.run._run", run)
    code, out, err = distill("compare", "smoke", "--losses", "kd", "--seeds", "1", *TINY)
    assert code == 1
    assert asked == [cell.row for cell in made]
    assert "smoke-kd, seed 0 (exit code -9): killed by SIGKILL\n    distill train --recipe smoke" in err
    assert "timm/test_resnet alone" in out or "resnet18 alone" in out


def test_study_that_is_stopped_stops_its_cell_and_goes_on_with_it():
    process = start("smoke", "--seeds", "1", *TINY, "train.epochs=2000", "train.max_steps=null", "train.lr=0.01")
    deadline = time.monotonic() + 120
    while not Path("runs/smoke-test_resnet-alone-seed0/metrics.jsonl").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert out == ""
    assert "the same command goes on with what is missing" in err
    status = json.loads(Path("runs/smoke-test_resnet-alone-seed0/status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("stopped", 75)


def test_tables_go_to_files_and_the_terminal(distill):
    write_study({0: 800, 1: 810, 2: 806}, kd={0: 830, 1: 836, 2: 832})
    code, out, err = distill("compare", "runs", "--markdown", "table.md", "--csv", "table.csv")
    assert code == 0
    assert "kd beats the same student alone by 2.73 ± " in out
    assert "written: table.md" in err
    table = Path("table.md").read_text()
    assert "| kd | 3 | 83.27 ± " in table
    assert "- Teacher resnet50: 90.00% on test." in table
    rows = list(csv.DictReader(Path("table.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == ["resnet18 alone", "kd"]
    assert [float(row["test_top1"]) for row in rows] == pytest.approx([2416 / 3000, 2498 / 3000])
    code, out, _ = distill("compare", "runs", "--json")
    found = json.loads(out)
    assert found["rows"][1]["difference"] == pytest.approx(0.0273333, abs=1e-6)
    assert found["rows"][1]["seeds"] == [0, 1, 2]
    assert found["rows"][0]["difference"] is None


def test_names_from_strangers_do_not_break_the_tables(distill):
    write_run("=cmd|x<b>", 830, recipe(0, ce={}, kd={}))
    code, *_ = distill("compare", "runs", "--markdown", "table.md", "--csv", "table.csv")
    assert code == 0
    assert "=cmd\\|x&lt;b>" in Path("table.md").read_text()
    assert "\n'=cmd|x<b>," in Path("table.csv").read_text()


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "what is to be compared? say distill compare runs/*, or distill compare RECIPE --seeds 3"),
        (["nowhere"], "nowhere: there is no such folder; if it is a recipe to train first, add --seeds 3"),
        (["runs", "train.epochs=3"], "train.epochs=3 changes a recipe, but finished runs are compared as they are"),
        (["smoke", "--seeds", "none"], "--seeds none: a number of seeds such as 5, a list such as 0,1,2, or a range such as 0-4"),
        (["smoke", "--seeds", "0"], "--seeds 0: 1 to 1000 seeds"),
        (["smoke", "--seeds", "5-2"], "--seeds 5-2: 1 to 1000 seeds"),
        (["smoke", "--seeds", "1,1"], "the seeds must be one or more different numbers"),
        (["smokey", "--seeds", "2"], "there is no recipe or file 'smokey'"),
        (["smoke", "--losses", "kdd"], "unknown loss 'kdd'; did you mean"),
        (["smoke", "--ablate"], "smoke has 1 loss(es) beside ce; leaving one out at a time takes two at least"),
        (["smoke", "smoke", "--seeds", "2"], "two rows would be called smoke"),
        (["smoke", "--students", "resnet19"], "resnet19"),
        (["smoke", "--seeds", "1000", "--losses", "a,b,c,d,e,f,g,h,i,j,k"], "unknown loss 'a'"),
    ],
)
def test_what_can_not_be_compared_is_said(distill, words, message):
    write_run("kd-seed0", 830, recipe(0, ce={}, kd={}))
    code, _, err = distill("compare", *words, "--plan") if words[:1] == ["smoke"] else distill("compare", *words)
    assert code == 2, err
    assert message in err


@pytest.mark.parametrize(
    "text, message",
    [
        ("recipes: []", "study.yaml: recipes: must hold at least 1 entry"),
        ("recipes: [smoke]\nseed: 3", "study.yaml: seed: unknown key"),
        ("recipes: [smoke]\nseeds: many", "study.yaml: seeds"),
        ("recipes: [smoke]\nvariants: {a b: {}}", "must be letters, digits and _"),
        ("recipes: [smoke]\nvariants: {x: {train: {epoch: 3}}}", "train.epoch: unknown key; did you mean 'epochs'?"),
        ("recipes: [smoke]\nrecipes: [smoke]", "recipes"),
    ],
)
def test_wrong_study_is_refused_before_anything_is_trained(distill, text, message):
    Path("study.yaml").write_text(text)
    code, _, err = distill("compare", "study.yaml")
    assert code == 2
    assert message in err
    assert not Path("runs").exists()


def test_study_says_all_itself(distill):
    Path("study.yaml").write_text(STUDY)
    code, _, err = distill("compare", "study.yaml", "--seeds", "3")
    assert (code, "leave out --seeds" in err) == (2, True)


def test_folder_with_another_run_is_not_touched(distill):
    write_run("smoke-kd-seed0", 830, recipe(0, ce={}, kd={}))
    before = Path("runs/smoke-kd-seed0/summary.json").read_bytes()
    code, _, err = distill("compare", "smoke", "--losses", "kd", "--seeds", "1", *TINY)
    assert code == 3
    assert "runs/smoke-kd-seed0 holds a run of another recipe; remove or rename it, or set runs_dir=FOLDER" in err
    assert Path("runs/smoke-kd-seed0/summary.json").read_bytes() == before


@pytest.mark.parametrize("name", ["kd-T=4-seed0", "~kd-seed0"])
def test_run_whose_name_looks_like_an_override_is_compared(distill, name):
    write_study({0: 800}, kd={0: 830})
    Path("runs/kd-seed0").rename(name)
    code, out, err = distill("compare", name, "runs")
    assert code == 0, err
    assert "resnet18 alone" in out


def test_home_folder_that_no_shell_has_put_in_is_found(distill, monkeypatch, tmp_path):
    write_study({0: 800}, kd={0: 830})
    monkeypatch.setenv("HOME", str(tmp_path))
    assert distill("compare", "~/runs")[0] == 0


def test_what_is_left_out_is_said_in_every_form(distill):
    write_study({0: 800, 1: 801}, kd={0: 830, 1: 831})
    Path("runs/kd-seed1/status.json").write_text(json.dumps({"state": "running"}))
    code, out, _ = distill("compare", "runs", "--json", "--html", "page.html", "--markdown", "table.md")
    assert code == 0
    for text in (out, Path("page.html").read_text(), Path("table.md").read_text()):
        assert "kd-seed1 is left out: it is still going" in text


@pytest.mark.parametrize("option", ["--csv", "--html", "--markdown"])
@pytest.mark.parametrize("place", [".", "", "folder"])
def test_folder_in_place_of_a_file_is_refused(distill, option, place):
    write_study({0: 800}, kd={0: 830})
    Path("folder").mkdir()
    code, _, err = distill("compare", "runs", option, place)
    assert code == 2
    assert "it is a folder; name a file" in err


def test_output_through_a_pipe_and_a_link_stays_one():
    write_study({0: 800}, kd={0: 830})
    Path("link.csv").symlink_to("real.csv")
    os.mkfifo("pipe")
    with subprocess.Popen(["cat", "pipe"], stdout=subprocess.PIPE, text=True) as reader:
        assert cli.main(["compare", "runs", "--csv", "pipe", "--markdown", "link.csv"]) == 0
        assert reader.communicate(timeout=60)[0].startswith("name,is_alone")
    assert Path("pipe").is_fifo()
    assert Path("link.csv").is_symlink()
    assert Path("real.csv").read_text().startswith("|")


def test_names_that_are_no_utf8_do_no_harm(distill):
    write_study({0: 800}, kd={0: 830})
    Path("runs/kd-seed0").rename(os.fsdecode(b"runs/caf\xe9-seed0"))
    code, _, err = distill("compare", "runs", "--csv", "table.csv", "--html", "page.html", "--markdown", "table.md", "--json")
    assert code == 0, err


def test_codes_that_command_a_terminal_are_not_passed_on(distill):
    write_study({0: 800}, kd={0: 830})
    path = Path("runs/kd-seed0/summary.json")
    path.write_text(path.read_text().replace('"model": "resnet50"', '"model": "x\\u001b[31mY"'))
    code, out, err = distill("compare", "runs")
    assert code == 0, err
    assert "\x1b[31m" not in out + err


@pytest.mark.parametrize("launcher, message", [("acelerate launch", "there is no command acelerate"), ("a 'b", "No closing quotation")])
def test_launcher_that_can_not_be_is_refused(distill, launcher, message):
    code, _, err = distill("compare", "r50_to_r18", "--seeds", "1", "--launcher", launcher)
    assert code == 2
    assert message in err


def test_control_of_a_student_without_labels_has_labels(distill):
    code, out, err = distill("compare", "r50_to_r18", "data.labels=none", "~losses.ce", "teacher.weights=random", "--seeds", "1", "--plan")
    assert code == 0, err
    alone, taught = out.strip().splitlines()
    assert "data.labels=given" in alone
    assert "data.labels=given" not in taught
