"""distill doctor: a sound recipe gets a report and exit code 0, whatever would fail later is found, and nothing is left behind."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from runs import SMALL

from distill.build.batches import made_up_batch
from distill.build.pieces import build_pieces
from distill.build.source import open_source
from distill.doctor import checks, diagnose, measures
from distill.doctor.checks import Stage, check_disk
from distill.doctor.findings import Findings
from distill.models.folding import fold_batch_norms
from distill.models.zoo import create_model
from distill.recipe_files import load_recipe
from distill.resolve import Catalogue

PLUGIN = str(Path(__file__).parent / "odd_losses.py")
NOT_FINITE = [*SMALL, "--plugin", PLUGIN, "train.checkpoint_every_steps=2", "run_name=bad"]

SOURCE = """
from distill.data.sources.synthetic import Synthetic


class Mislabelled(Synthetic):
    def __init__(self, root=None, image_size=None, val_fraction=0.1):
        super().__init__(root, image_size, val_fraction)
        self.train.labels[7] = 9
"""


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(measures, "_SECONDS_MEASURED", 0.0)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # one that was chosen: then no command takes more threads than the tests were given


def files(folder: str | Path = ".") -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder" for path in sorted(Path(folder).rglob("*"))}


def flat(text: str) -> str:
    return " ".join(text.split())


def test_sound_recipe_gets_a_report_and_nothing_is_written(distill):
    code, out, err = distill("doctor", *SMALL)
    assert (code, err) == (0, "")
    for part in ("What will be done", "train the student timm/test_resnet for at most 22 steps", "1 process(es)", "logits", "kd (KD): uses logits"):
        assert part in flat(out)
    for part in ("Terms at the first step", "Memory of a process", "sets the pace", "the distilled student runs", "No problem was found."):
        assert part in flat(out)
    assert files() == {}


def test_recipe_may_come_without_an_option_and_with_overrides_after_one(distill):
    assert distill("doctor", "smoke", *SMALL[2:4], "--json", *SMALL[4:])[0] == 0


def test_machine_alone_is_shown_without_a_recipe(distill):
    code, out, _ = distill("doctor")
    assert code == 0
    assert f"torch {torch.__version__.partition('+')[0]}" in flat(out)
    for part in ("fast bf16", "norm: sync", "several processes", "No problem"):
        assert part in flat(out)
    assert "Terms" not in out


@pytest.mark.parametrize("columns", [80, 200])
def test_report_keeps_to_the_width(columns, distill, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    _, out, _ = distill("doctor", *SMALL, "losses.fitnet={weight: 100000, layers: [layer2]}")
    widths = [len(line) for line in out.splitlines()]
    assert max(widths) <= min(columns, 120)
    assert max(widths) > 0.8 * min(columns, 120)


def test_json_has_every_section_and_its_numbers(distill):
    extra = ["losses.fitnet={weight: auto(0.1), layers: [layer2]}", "losses.ctkd={weight: 0.5}", "teacher.model=resnet18", "train.optimizer=adamw"]
    code, out, _ = distill("doctor", *SMALL, *extra, "--json")
    report = json.loads(out)
    assert code == 0
    assert list(report) == [
        *("machine", "data", "plan", "teacher", "features", "losses", "terms", "speed", "memory", "disk", "problems", "warnings"),
    ]
    features = {row["layer"]: row for row in report["features"]}
    assert features["layer2"] == {"layer": "layer2", "student": [48, 4, 4], "teacher": [128, 4, 4]}
    assert features["logits"]["teacher"] == [4]
    trains = {row["loss"]: row["trains"] for row in report["losses"]}
    assert trains["ce"] == []
    assert trains["fitnet"] == ["projectors.0 (Projector, 48 -> 128 channels, 6,400 parameters)"]  # 48 * 128, and 2 * 128 of the norm
    assert len(trains["ctkd"]) == 1
    assert "one number" in trains["ctkd"][0]
    terms = {row["term"]: row for row in report["terms"]}
    assert terms["ce"]["ratio"] == pytest.approx(0.5)
    assert terms["ce"]["cosine"] == pytest.approx(1)
    assert terms["fitnet"]["ratio"] == pytest.approx(0.1)
    assert terms["fitnet"]["weighted_norm"] == pytest.approx(terms["fitnet"]["weight"] * terms["fitnet"]["gradient_norm"])
    needs = report["memory"]["needs"]["training the student"]
    assert needs["optimizer (adamw)"] == 2 * needs["gradients"]
    assert needs["resident pictures"] == 3 * 32 * 32 * (40 + 24 + 24)
    teacher = create_model("resnet18", num_classes=4).eval().requires_grad_(False)
    assert fold_batch_norms(teacher, torch.zeros(2, 3, 32, 32)).num_folded == 20
    assert needs["teacher"] == sum(tensor.nbytes for tensor in teacher.state_dict().values()) + 24  # mean and scale
    assert {"loader_images_per_second", "teacher_images_per_second", "student_images_per_second"} <= set(report["speed"])


PROBLEMS = {
    "an unknown recipe": (["--recipe", "smok"], 2, ["smok", "did you mean"]),
    "an unknown loss": ([*SMALL, "losses.kdd.weight=1"], 2, ["losses.kdd", "did you mean 'kd'"]),
    "a plugin that is not there": ([*SMALL, "--plugin", "nothing.py"], 2, ["nothing.py: there is no such file"]),
    "a batch that can't be divided": ([*SMALL, "train.accumulation=3"], 2, ["global_batch_size=8", "multiple of 3"]),
    "fp16 on a CPU": ([*SMALL, "train.precision=fp16"], 2, ["train.precision=fp16 is for GPUs"]),
    "a layer that is not there": ([*SMALL, "losses.at={weight: 1, layers: [layer5]}"], 2, ["losses.at", "layer5"]),
    "parameters that no loss reaches": (
        [*SMALL, "losses.ce=null", "losses.kd=null", "losses.at={weight: 1, layers: [layer2]}"],
        2,
        ["no loss reaches these parameters"],
    ),
    "an auto weight without gradient": (
        [*SMALL, "losses.fitnet={weight: auto(1), layers: [layer1]}", "student.frozen=[conv1, bn1, layer1]"],
        2,
        ["auto(1)"],
    ),
    "no such folder of pictures": ([*SMALL, "~data.arguments", "data.source=imagefolder", "data.root=no"], 3, ["data.root=no: there is no such"]),
    "a missing teacher": ([*SMALL, "teacher.weights=no.pth"], 3, ["no.pth"]),
    "fewer pictures than a batch": ([*SMALL, "data.arguments={num_train: 5}"], 3, ["5 pictures, fewer than one batch of 8"]),
    "a single picture for batch norm": ([*SMALL, "train.accumulation=8"], 1, ["batch norm can't train on one value per channel"]),
    "sync norm without CUDA": ([*SMALL, "student.model=resnet18", "student.norm=sync"], 1, ["norm: sync needs CUDA"]),
}


@pytest.mark.skipif(torch.cuda.is_available(), reason="the messages are those of a CPU")
@pytest.mark.parametrize("case", PROBLEMS)
def test_problem_is_found_and_sets_the_exit_code(case, distill):
    arguments, expected, parts = PROBLEMS[case]
    check(distill("doctor", *arguments), expected, parts)
    assert files() == {}


def check(result: tuple[int, str, str], expected: int, parts: list[str]) -> None:
    code, out, err = result
    assert code == expected, out
    assert "found: " in err
    assert "Traceback" not in err
    _, _, listed = out.partition("\nProblems\n")
    for part in parts:
        assert part in flat(listed), f"{part!r} is not in: {listed}"
    assert "unexpected" not in listed
    assert "No problem" not in out


def weights(name: str, **arguments: int) -> str:
    torch.save(create_model(name, **arguments).state_dict(), "teacher.pth")
    return "teacher.weights=teacher.pth"


def test_teacher_of_another_class_count_is_found_and_the_rest_goes_on(distill):
    result = distill("doctor", *SMALL, "teacher.model=resnet18", weights("resnet18", num_classes=7))
    check(result, 3, ["7 classes"])
    assert "Terms at the first step" in result[1]
    assert "Memory" in result[1]


def test_teacher_that_knows_nothing_is_found(distill):
    check(distill("doctor", *SMALL, "teacher.model=resnet18", weights("resnet18", num_classes=4), "teacher.check=true"), 3, ["near chance (25.0%)"])


def test_label_out_of_range_is_found(distill):
    Path("mislabelled.py").write_text(SOURCE)
    result = distill("doctor", *SMALL, "--plugin", "mislabelled.py", "data.source=mislabelled", "~data.arguments")
    check(result, 3, ["1 of 256 labels are out of range", "sample id 7 has label 9", "4 classes (0 to 3)"])
    assert "Terms at the first step" in result[1]


def pictures(part: str, num_each: int = 12) -> None:
    for name in ("cat", "dog"):
        folder = Path("pictures") / part / name
        folder.mkdir(parents=True)
        for number in range(num_each):
            Image.fromarray(np.full((20, 20, 3), 10 * number, dtype=np.uint8)).save(folder / f"{number}.png")


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_picture_that_cannot_be_read_is_found_in_every_part(part, distill):
    for name in ("train", "val", "test"):
        pictures(name)
    Path(f"pictures/{part}/dog/3.png").write_bytes(b"no picture")
    before = files()
    options = ["data.source=imagefolder", "data.root=pictures", "data.image_size=32", "~data.arguments", "data.workers=0"]
    result = distill("doctor", *SMALL, *options)
    check(result, 3, [f"{part}/dog/3.png", "replace or remove the file"])
    assert "Terms at the first step" in result[1]
    assert files() == before


def test_folder_that_cannot_be_written_is_found(distill):
    Path("taken").write_text("a file")
    check(distill("doctor", *SMALL, "runs_dir=taken/deeper"), 3, ["runs_dir=taken/deeper can't be written", "set runs_dir=FOLDER"])


def test_teacher_cache_that_cannot_be_written_is_found_if_it_is_needed(distill, monkeypatch):
    Path("taken").write_text("a file")
    monkeypatch.setenv("DISTILL_CACHE", "taken")
    assert distill("doctor", *SMALL)[0] == 0
    check(distill("doctor", *SMALL, "teacher.weights=train", "teacher.recipe=r18_alone"), 3, ["trained teachers", "DISTILL_CACHE=FOLDER"])


def test_full_disk_is_found(distill, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: usage(10**9, 0, 10**5))
    check(distill("doctor", *SMALL), 3, ["has 0.1 MB free for the distilled student, which writes up to", "train.keep_checkpoints=1"])


def test_finished_runs_take_less_of_the_disk_than_they_wrote(monkeypatch):
    usage, found = namedtuple("usage", "total used free"), Findings()
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: usage(200, 0, 130))
    stages = [
        Stage("one", Path("runs"), written=100, left=20),
        Stage("two", Path("runs"), written=100, left=20),
        Stage("three", Path("runs"), 100, 20),
    ]
    assert [row["free_bytes"] for row in check_disk(stages, found)] == [130, 110, 90]
    assert [problem.message.partition(",")[0].rpartition(" ")[2] for problem in found.problems] == ["three"]


@pytest.mark.parametrize("free, code", [(10**4, 1), (10**12, 0), (None, 0)])
def test_too_little_memory_is_found(free, code, distill, monkeypatch):
    monkeypatch.setattr(diagnose, "free_memory", lambda device: free)
    result = distill("doctor", *SMALL)
    assert result[0] == code
    if code:
        check(result, 1, ["training the student needs about", "0.0 MB are free", "data.global_batch_size"])


def test_unfinished_run_of_the_name_is_found(distill):
    Path("runs/smoke-seed0").mkdir(parents=True)
    for name in ("recipe.resolved.yaml", "metrics.jsonl"):
        Path("runs/smoke-seed0", name).write_text("")
    before = files()
    check(distill("doctor", *SMALL), 3, ["runs/smoke-seed0 is not finished", "--resume"])
    assert files() == before


def test_value_that_is_not_finite_in_the_first_step_is_found(distill):
    bad = [f"losses.not_finite={{weight: 1, sample_id: {sample_id}}}" for sample_id in (7, 999)]
    options = [*SMALL, "--plugin", PLUGIN, "data.global_batch_size=40"]
    check(distill("doctor", *options, bad[0]), 1, ["losses.not_finite: its value is inf"])
    assert distill("doctor", *options, bad[1])[0] == 0


def test_all_problems_are_listed_with_those_of_the_recipe_first(distill, monkeypatch):
    monkeypatch.setattr(diagnose, "free_memory", lambda device: 1)
    Path("taken").write_text("")
    options = ["runs_dir=taken", "teacher.weights=no.pth", "train.precision=fp16", "--json"]
    code, out, err = distill("doctor", *SMALL, *options)
    problems = json.loads(out)["problems"]
    assert code == 2
    assert [problem["exit_code"] for problem in problems] == [2, 3, 3, 1]
    assert "4 problems found" in err
    assert len({problem["message"] for problem in problems}) == 4


def test_data_of_a_wrong_recipe_are_looked_at_all_the_same(distill):
    check(
        distill("doctor", *SMALL, "losses.kd.temprature=3", "data.source=imagefolder", "data.root=no", "~data.arguments"),
        2,
        ["losses.kd.temprature", "data.root=no"],
    )


@pytest.mark.parametrize(
    "weight, part",
    [
        ("1000", "times cross-entropy's, which then hardly counts"),
        ("1e-7", "changes next to nothing"),
        ("0", "teaches nothing"),
        ("{schedule: warmup, end: 1000, epochs: 2}", "times cross-entropy's"),
        ("{schedule: warmup, end: 1, epochs: 2}", None),
    ],
)
def test_term_that_drowns_the_labels_or_does_nothing_is_warned_of(weight, part, distill):
    extra = ["teacher.model=resnet18", "seed=1", f"losses.more={{type: mse_logits, weight: {weight}}}", "--json"]
    code, out, _ = distill("doctor", *SMALL, *extra)
    assert code == 0
    warned = [warning for warning in json.loads(out)["warnings"] if warning.startswith("losses.more")]
    assert (len(warned) == 1 and part in warned[0]) if part else not warned


@pytest.mark.parametrize(
    "rates, workers, beginning",
    [
        ({"loader": 100, "teacher": 300, "student": 600}, 2, "The loader sets the pace: it gives 100 images/s and the networks could take 200"),
        ({"loader": 300, "teacher": 300, "student": 600}, 2, "The teacher sets the pace: it takes 67% of each step"),
        ({"loader": 1000, "student": 250}, None, "The student sets the pace: it takes 80% of each step"),
        ({"loader": 100, "student": 400}, 0, "The loader sets the pace: it takes 80% of each step; data.workers"),
    ],
)
def test_bottleneck_is_named(rates, workers, beginning):
    assert measures.advice(rates, workers, torch.device("cpu")).startswith(beginning)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activations_are_those_of_the_whole_batch(precision):
    recipe, catalogue = load_recipe("smoke", [*SMALL[2:], "losses.fitnet={weight: 1, layers: [layer2]}"]), Catalogue()
    source = open_source(recipe.data, catalogue)
    pieces = build_pieces(recipe, catalogue, source, device=torch.device("cpu"), precision=precision, weights={})
    whole = measures._saved_bytes(pieces, made_up_batch(source, 32, torch.device("cpu")))
    guess = measures._activation_bytes(pieces, made_up_batch(source, 8, torch.device("cpu")), 32)
    assert guess == pytest.approx(whole, rel=0.02)


@pytest.mark.parametrize("gradient_only", [False, True])
@pytest.mark.parametrize("options", [[], ["train.accumulation=2", "train.clip_norm=1", "train.optimizer=adamw", "train.ema_decay=0.9"]])
def test_replay_names_the_term_and_the_pictures_and_leaves_the_folder_alone(gradient_only, options, distill):
    bad = f"losses.not_finite={{weight: 1, sample_id: 7, view: 1, gradient_only: {str(gradient_only).lower()}}}"
    assert distill("train", *NOT_FINITE, bad, *options)[0] == 4
    found, before = json.loads(Path("runs/bad/diverged.json").read_text()), files()
    code, out, _ = distill("doctor", "--replay", "runs/bad", "--plugin", PLUGIN)
    assert code == 0
    assert files() == before
    assert f"step {found['step'] + 1} again" in flat(out)
    assert "The failure was reproduced" in flat(out)
    assert "'not_finite' is not" in flat(out)
    for sample_id in found["sample_ids"]:
        assert f"\n  {sample_id} " in out
    assert ("It is so for sample 7 alone" in flat(out)) is not gradient_only
    report = json.loads(distill("doctor", "--replay", "runs/bad", "--plugin", PLUGIN, "--json")[1])
    assert report["reproduced"] is True
    assert [picture["sample_id"] for part in report["parts"] for picture in part["pictures"]] != []
    assert {picture["sample_id"] for part in report["parts"] for picture in part["pictures"]} == set(found["sample_ids"])
    guilty = [part for part in report["parts"] if any(picture["sample_id"] == 7 for picture in part["pictures"])]
    wrong = {row["term"]: row["num_wrong_parameters"] > 0 for row in guilty[0]["terms"]}
    assert wrong == {"ce": False, "kd": False, "not_finite": True}


def test_replay_of_training_that_ran_away_blames_the_student(distill):
    assert distill("train", *SMALL, "train.lr=1e30", "run_name=bad")[0] == 4
    code, out, _ = distill("doctor", "--replay", "runs/bad")
    assert code == 0
    assert "The failure was reproduced" in flat(out)
    assert "a lower train.lr" in flat(out)


def test_replay_finds_the_teacher_that_the_job_trained(distill):
    bad = "losses.not_finite={weight: 1, sample_id: 7, view: 1}"
    overrides = "teacher.overrides={losses: {ce: {weight: 1.0}}, data: {global_batch_size: 8}, train: {epochs: 1, max_steps: 2, warmup_epochs: 0}}"
    assert distill("train", *NOT_FINITE, bad, "teacher.weights=train", "teacher.recipe=r18_alone", overrides)[0] == 4
    code, out, _ = distill("doctor", "--replay", "runs/bad", "--plugin", PLUGIN)
    assert code == 0
    assert "The failure was reproduced" in flat(out)
    shutil.rmtree("cache")
    code, _, err = distill("doctor", "--replay", "runs/bad", "--plugin", PLUGIN)
    assert code == 3
    assert "DISTILL_CACHE" in err


def test_replay_says_when_the_failure_does_not_come_again(distill):
    bad = "losses.not_finite={weight: 1, sample_id: 7, view: 1}"
    assert distill("train", *NOT_FINITE, bad)[0] == 4
    path = Path("runs/bad/diverged.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "step": 2}))
    shutil.rmtree("runs/bad/checkpoints")
    code, out, _ = distill("doctor", "--replay", "runs/bad", "--plugin", PLUGIN)
    assert code == 0
    assert "The failure was not reproduced: all is finite here" in flat(out)
    path.write_text(json.dumps({**json.loads(path.read_text()), "step": 15}))
    assert "The failure came earlier than in the run" in flat(distill("doctor", "--replay", "runs/bad", "--plugin", PLUGIN)[1])


def test_replay_needs_a_run_that_diverged(distill):
    assert distill("train", *SMALL, "run_name=good")[0] == 0
    for arguments, part in (
        (["--replay", "runs/good"], "this run did not diverge"),
        (["--replay", "nothing"], "there is no such folder"),
        (["--replay", "runs"], "that is no run"),
        (["smoke", "--replay", "runs/good"], "leave out smoke"),
        (["train.epochs=3"], "which recipe"),
    ):
        code, _, err = distill("doctor", *arguments)
        assert code == 2
        assert part in err
