"""Chains of assistants: each network learns from the one before, is kept once, and is found again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError
from runs import SMALL, Killed, contents, kill_at, metrics

from distill.engine.trainer import Trainer
from distill.errors import RecipeError
from distill.recipe import Recipe, what_is_wrong
from distill.recipe_files import explain, fingerprint, load_recipe, read_draft
from distill.recipe_teachers import assistant_recipe, chain_of, in_full
from distill.report.table import result_table
from distill.student_alone import control_recipe

TINY = "timm/test_resnet"
FIRST = ["teacher.weights=train", "teacher.recipe=r18_alone"]
FIRST += ["teacher.overrides={data: {global_batch_size: 8}, train: {epochs: 1, warmup_epochs: 0, max_steps: 2}}"]
SAME = [*SMALL, *FIRST, f"chain=[{TINY}, {TINY}, {TINY}]", "train.max_steps=3", "run_name=run"]
# the teacher and the assistant are tiny networks of other kinds, so that no two are mixed up
CHAIN = [*SMALL, *FIRST, f"chain=[timm/test_resnet, timm/test_efficientnet, {TINY}]", "train.max_steps=3", "run_name=run"]


def summary(name: str) -> dict:
    return json.loads((Path("runs") / name / "summary.json").read_text())


def teachers(tmp_path: Path) -> list[str]:
    return sorted(path.name.rpartition("-")[0] for path in (tmp_path / "cache" / "teachers").iterdir() if path.is_dir())


def test_each_network_is_trained_from_the_one_before_and_kept_for_later_runs(distill, tmp_path):
    code, out, err = distill("train", *CHAIN, "losses.kd.temperature=3")
    assert code == 0, err
    first, second, third = (err.index(f" {number}. train the ") for number in (1, 2, 3))
    assert first < err.index(f"teacher {TINY} for at most 2 steps") < second
    assert second < err.index("assistant timm/test_efficientnet for at most 3 steps on 0.5 ce + 0.5 kd from timm/test_resnet, once") < third
    assert teachers(tmp_path) == ["timm-test_efficientnet", "timm-test_resnet"]
    found = summary("run")
    assert [row["model"] for row in [*found["chain"], found["teacher"], found["distilled"]]] == [TINY, "timm/test_efficientnet", TINY]
    assert found["chain"][0]["test_top1"] == summary_in_store(tmp_path, "timm-test_resnet")["alone"]["test_top1"]
    assert found["teacher"]["test_top1"] == summary_in_store(tmp_path, "timm-test_efficientnet")["distilled"]["test_top1"]
    assert "each learned from the one before" in out
    assert [row for row in ("teacher ", "assistant ", "distilled student ") if row in out] == ["teacher ", "assistant ", "distilled student "]

    code, _, err = distill("train", *CHAIN, "losses.kd.temperature=3", "run_name=again", "seed=1", "teacher.check=false")
    assert code == 0, err
    assert "use the assistant timm/test_efficientnet again" in err
    assert "the teacher timm/test_resnet" not in err  # nobody asks for it any more
    assert len(teachers(tmp_path)) == 2

    (path,) = (tmp_path / "cache" / "teachers").glob("timm-test_efficientnet-*/recipe.resolved.yaml")
    made = load_recipe(path.parent)
    assert made.teacher.model == TINY
    assert (made.losses["kd"].model_extra["temperature"], made.train.max_steps, made.seed, made.control) == (3, 3, 0, False)
    assert {"ce", "kd"} <= set(metrics(path.parent)[0])
    assert summary("again")["chain"] == found["chain"]


def summary_in_store(tmp_path: Path, name: str) -> dict:
    (path,) = (tmp_path / "cache" / "teachers").glob(f"{name}-*/summary.json")
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, str]:
    """The contents of a run of a chain that was never cut off."""
    from distill import cli

    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DISTILL_CACHE", str(folder / "cache"))
        assert cli.main(["train", *SAME, f"runs_dir={folder}"]) == 0
    return contents(folder / "run")


@pytest.mark.parametrize("step", [4, 7])
def test_job_killed_in_any_link_is_gone_on_with_to_the_same_bits(step, whole, distill, monkeypatch):
    """Steps 1 and 2 are the first network's, 3 to 5 the assistant's, 6 to 8 the student's."""
    with monkeypatch.context() as patched:
        kill_at(patched, Trainer, "_save_or_stop", step)
        with pytest.raises(Killed):
            distill("train", *SAME, "train.checkpoint_every_steps=1")
    code, _, err = distill("train", *SAME, "--resume")
    assert code == 0, err
    assert "going on from step-00000001" in err
    assert contents("runs/run") == whole


def test_doctor_looks_at_every_link(distill):
    code, out, err = distill("doctor", *SAME[1:], "chain=[timm/test_resnet, timm/test_efficientnet, timm/test_resnet]", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert {"training the teacher timm/test_efficientnet", f"training the teacher {TINY}", "training the student"} == set(found["memory"]["needs"])


# what a recipe says


def recipe(**more) -> Recipe:
    values = {"student": {"model": "resnet18", "stem": "small"}, "losses": {"ce": {}}, "data": {}, "train": {"epochs": 10, "lr": 0.1}}
    values["teacher"] = {"model": "resnet50", "recipe": "r50_alone", "overrides": {"seed": 3}, "check": False}
    return Recipe.model_validate(values | {"chain": ["resnet152", "resnet101", "resnet50", "resnet18"]} | more)


def test_chain_written_out_names_every_network_with_what_teaches_it():
    full = in_full(recipe())
    assert full.chain is None
    assert chain_of(full) == ["resnet152", "resnet101", "resnet50", "resnet18"]
    last, middle, first = full.teacher, full.teacher.teacher, full.teacher.teacher.teacher
    assert (first.recipe, first.overrides, first.stem, first.teacher) == ("r50_alone", {"seed": 3}, "imagenet", None)
    assert [(one.weights, one.recipe, one.stem, one.check) for one in (last, middle)] == [("train", None, "small", False)] * 2
    assert in_full(full) == full == Recipe.model_validate(full.model_dump(mode="json"))
    assert chain_of(recipe(chain=None)) == []


def test_assistant_is_the_same_one_for_every_seed_name_and_student():
    full = in_full(recipe())
    made = assistant_recipe(full)
    assert (made.student.model, made.student.stem, made.teacher.model, made.seed) == ("resnet50", "small", "resnet101", 0)
    others = [
        full.model_copy(update=change) for change in ({"seed": 4}, {"run_name": "x"}, {"student": full.student.model_copy(update={"model": "x"})})
    ]
    others += [in_full(recipe(teacher={"model": "any", "recipe": "r50_alone", "overrides": {"seed": 3}, "claimed_top1": 0.9}))]
    assert {fingerprint(assistant_recipe(other)) for other in others} == {fingerprint(made)}
    changed = [recipe(losses={"ce": {}, "kd": {}}), recipe(chain=["resnet34", "resnet101", "resnet50", "resnet18"])]
    assert len({fingerprint(assistant_recipe(in_full(other))) for other in changed} | {fingerprint(made)}) == 3


def test_student_alone_does_not_depend_on_the_chain():
    assert fingerprint(control_recipe(in_full(recipe()))) == fingerprint(control_recipe(recipe(chain=None)))


FAULTS = [
    ({"chain": ["a", "b", "resnet34"]}, "chain", "must end in the student, and student.model is resnet18"),
    ({"teacher": {"model": "a", "recipe": "r", "cache": {"folder": "x"}}}, "chain", "leave out teacher.cache.folder"),
    ({"teacher": {"model": "a", "teacher": {"model": "b", "recipe": "r"}}}, "chain", "says what teacher.teacher says too"),
    ({"teacher": {"model": "a", "recipe": "r", "teacher": {"model": "b", "recipe": "r"}}, "chain": None}, "teacher.recipe", "must be left out"),
    ({"teacher": {"model": "a", "weights": "w", "teacher": {"model": "b", "recipe": "r"}}, "chain": None}, "teacher.teacher", "is never asked"),
]


@pytest.mark.parametrize("change, path, words", FAULTS)
def test_chain_that_does_not_fit_is_refused_in_plain_words(change, path, words):
    with pytest.raises(ValidationError) as caught:
        recipe(**change)
    assert words in {".".join(map(str, place)): message for place, message in what_is_wrong(caught.value)}[path]


def test_unknown_network_in_a_chain_gets_the_nearest_name(distill):
    code, _, err = distill("train", "--recipe", "r50_to_r18", "chain=[resnet101, resnet5, resnet18]")
    assert code == 2
    assert "chain: " in err
    assert "resnet50" in err


def test_dry_run_shows_every_link_with_its_origin():
    draft = read_draft("r50_to_r18", ["chain=[resnet101, resnet50, resnet18]", "teacher.overrides.seed=2"])
    rows = {path: (value, origin.rpartition("/")[2]) for path, value, origin in explain(draft, draft.finish())}
    chain = "override `chain=[resnet101, resnet50, resnet18]`"
    assert rows["teacher.model"] == ("resnet50", chain)
    assert rows["teacher.teacher.model"] == ("resnet101", chain)
    assert rows["teacher.teacher.recipe"] == ("r50_alone", "r50_to_r18.yaml:9")
    assert rows["teacher.teacher.overrides.seed"] == (2, "override `teacher.overrides.seed=2`")
    assert rows["teacher.teacher.norm"] == ("batch", "default")


def test_matrix_of_teachers_for_a_chain_is_refused(distill):
    code, _, err = distill("compare", "methods/chain", "--teachers", "resnet50,resnet101", "--seeds", "2", "--plan")
    assert code == 2
    assert "has a chain" in err


def test_matrix_plans_the_student_alone_of_a_chain(distill):
    code, out, err = distill("compare", "methods/chain", "--seeds", "1", "--plan")
    assert code == 0, err
    assert "teacher=null chain=null" in out


def test_table_without_a_chain_is_as_it_was():
    row = {"model": "a", "val_top1": 0.5, "test_top1": 0.5, "num_parameters": 1, "gmacs": 1.0, "images_per_second": 1.0}
    table = result_table({"run_name": "x", "seed": 0, "teacher": row, "alone": row, "distilled": row})
    assert table.title == "x: last epoch, seed 0"
    assert list(table.columns[0].cells) == ["teacher", "student alone", "distilled student"]


def test_chain_is_read_from_a_recipe_file():
    assert chain_of(load_recipe("methods/chain")) == ["resnet101", "resnet50", "resnet18"]
    with pytest.raises(RecipeError, match=r"chain: must end in the student, and student.model is resnet34"):
        load_recipe("methods/chain", ["student.model=resnet34"])
