"""Several teachers that answer as one: what they answer, and a job with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from runs import SMALL, Killed, contents, kill_at
from torch import Tensor

from distill.engine.methods.several_teachers import Remembered, SeveralTeachers, Together
from distill.engine.trainer import Trainer
from distill.recipe import Recipe, what_is_wrong
from distill.recipe_files import fingerprint
from distill.report.table import result_table
from distill.structures import Batch, HostKeys, Outputs
from distill.student_alone import control_recipe

# answers


class Says:
    """A teacher that answers [N, 2] logits made of its own number and the sample's id, and notes what it was asked for."""

    def __init__(self, number: float):
        self.number, self.asked = number, []

    def __call__(self, batch: Batch) -> Outputs:
        self.asked.append(batch.sample_ids.tolist())
        assert batch.host is None or batch.host.sample_ids.tolist() == batch.sample_ids.tolist()
        return Outputs(torch.stack([batch.sample_ids.float(), torch.full((len(batch.sample_ids),), self.number)], dim=1), {"layer4": batch.images})


def batch(sample_ids: list[int], view: int = 0, *, with_host: bool = True) -> Batch:
    ids = torch.tensor(sample_ids)
    host = HostKeys(ids.numpy().copy(), view) if with_host else None
    return Batch(torch.zeros(len(ids), 3, 8, 8, dtype=torch.uint8), ids, ids, torch.full_like(ids, view), host)


def test_mean_and_weighted_mean_are_those_of_the_logits():
    teachers = [Says(2.0), Says(6.0)]
    assert SeveralTeachers(teachers, [0.5, 0.5])(batch([3, 5])).logits.tolist() == [[3, 4], [5, 4]]
    answer = SeveralTeachers(teachers, [0.75, 0.25])(batch([3, 5]))
    assert answer.logits.tolist() == [[3, 3], [5, 3]]
    assert answer.features == {}
    assert answer.head is None


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_softened_mean_is_the_geometric_mean_of_what_each_says_softened_alike(temperature):
    logits = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = SeveralTeachers([lambda _, own=own: Outputs(own, {}) for own in logits], [0.3, 0.7])(batch([0] * 5)).logits
    product = (logits[0] / temperature).softmax(1) ** 0.3 * (logits[1] / temperature).softmax(1) ** 0.7
    torch.testing.assert_close((ours / temperature).softmax(1), product / product.sum(1, keepdim=True))


def drawn(seed: int = 0, shares: tuple[float, ...] = (0.5, 0.5)) -> SeveralTeachers:
    return SeveralTeachers([Says(float(number)) for number in range(len(shares))], shares, is_sampled=True, seed=seed)


def test_drawn_answers_are_each_of_one_teacher_that_was_asked_for_its_own_pictures_only():
    teachers, ids = drawn(), list(range(40))
    logits = teachers(batch(ids)).logits
    assert logits[:, 0].tolist() == ids
    assert set(logits[:, 1].tolist()) == {0.0, 1.0}
    for number, teacher in enumerate(teachers.teachers):
        assert teacher.asked == [[sample for sample in ids if logits[sample, 1] == number]]


def test_draw_depends_on_seed_sample_and_view_and_on_nothing_else():
    ids = list(range(200))
    whole = drawn().choose(batch(ids))
    order = np.random.default_rng(0).permutation(200)
    assert (drawn().choose(batch(order.tolist())) == whole[order]).all()
    assert (np.concatenate([drawn().choose(batch(ids[start::2])) for start in (0, 1)]) == np.concatenate([whole[0::2], whole[1::2]])).all()
    assert (drawn().choose(batch(ids, with_host=False)) == whole).all()
    for other in (drawn(seed=1).choose(batch(ids)), drawn().choose(batch(ids, view=1)), drawn(seed=2**63 - 1).choose(batch(ids))):
        assert 60 < (other == whole).sum() < 140


def test_teachers_are_drawn_as_often_as_their_shares_say():
    chosen = drawn(shares=(0.2, 0.5, 0.3)).choose(batch(list(range(20_000))))
    assert (np.bincount(chosen) / 20_000).tolist() == pytest.approx([0.2, 0.5, 0.3], abs=0.015)  # 4 standard deviations


def test_something_else_may_be_asked_in_place_of_a_teacher():
    teachers, kept = drawn(), [Says(7.0), Says(8.0)]
    assert set(teachers.asking(kept)(batch(list(range(40)))).logits[:, 1].tolist()) == {7.0, 8.0}
    assert [teacher.asked for teacher in teachers.teachers] == [[], []]


def test_scored_together_they_are_the_mean_of_logits_or_of_probabilities():
    logits = [torch.tensor([[0.0, 2.0]]), torch.tensor([[4.0, 0.0]])]
    networks = [lambda images, own=own: Outputs(own, {}) for own in logits]
    assert Together(networks, [0.25, 0.75])(torch.zeros(1)).logits.tolist() == [[3.0, 0.5]]
    mixed = Together(networks, [0.25, 0.75], is_sampled=True)(torch.zeros(1)).logits
    torch.testing.assert_close(mixed.exp(), 0.25 * logits[0].softmax(1) + 0.75 * logits[1].softmax(1))


def test_network_that_is_scored_twice_computes_once():
    calls: list[Tensor] = []
    remembered = Remembered(lambda images: calls.append(images) or Outputs(images, {}))
    first, second = torch.zeros(1), torch.zeros(1)
    assert [remembered(images).logits is images for images in (first, first, second, second)] == [True] * 4
    assert len(calls) == 2


# a job

MAKER = "recipe: r18_alone, check: false, overrides: {data: {global_batch_size: 8}, train: {epochs: 1, warmup_epochs: 0, max_steps: 2}}"
TEACHERS = f"teachers=[{{model: timm/test_resnet, weight: 3, {MAKER}}}, {{model: timm/test_efficientnet, {MAKER}}}]"
SEVERAL = [*SMALL, "~teacher.check", "teacher=null", TEACHERS, "train.max_steps=7", "train.epochs=2", "train.accumulation=2", "run_name=run"]


def summary(name: str = "run") -> dict:
    return json.loads((Path("runs") / name / "summary.json").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """The store of teachers, and the contents of a run with drawn answers that was never cut off."""
    from distill import cli

    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DISTILL_CACHE", str(folder / "cache"))
        assert cli.main(["train", *SEVERAL, "answers=sampled", f"runs_dir={folder}"]) == 0
    return folder, contents(folder / "run")


def test_drawn_teachers_are_trained_cached_scored_and_shown(whole, capsys):
    folder, _ = whole
    found = json.loads((folder / "run" / "summary.json").read_text())
    kept = {path.parent.name.rpartition("-")[0]: json.loads(path.read_text()) for path in (folder / "cache" / "teachers").glob("*/summary.json")}
    assert [row["model"] for row in found["teachers"]] == ["timm/test_resnet", "timm/test_efficientnet"]
    assert [row["weight"] for row in found["teachers"]] == [3, 1]
    for row in found["teachers"]:
        assert row["test_top1"] == kept[row["model"].replace("/", "-")]["alone"]["test_top1"]
    asked = [row["answers"]["num_asked"] for row in found["teachers"]]
    assert sum(asked) == 7 * 8  # each picture of each step once, and from one teacher
    assert asked[0] > asked[1] > 0
    assert found["teacher"]["model"] == "timm/test_resnet + timm/test_efficientnet"
    assert found["teacher"]["answers_as_one"] == "sampled"
    assert found["teacher"]["num_parameters"] == sum(row["num_parameters"] for row in found["teachers"])
    assert 0 <= found["distilled"]["agreement"] <= 1
    assert list(result_table(found).columns[0].cells) == ["teacher 1", "teacher 2", "one, drawn (mean)", "distilled student"]


@pytest.mark.parametrize("step", [2, 5])
def test_run_killed_and_gone_on_with_is_the_run_that_was_not(step, whole, distill, monkeypatch):
    """Step 5 is in the second epoch, of which the first steps' answers were kept before the kill."""
    monkeypatch.setenv("DISTILL_CACHE", str(whole[0] / "cache"))
    for path in (whole[0] / "cache" / "answers").glob("*/view_*"):
        path.unlink()
    with monkeypatch.context() as patched:
        kill_at(patched, Trainer, "_save_or_stop", step)
        with pytest.raises(Killed):
            distill("train", *SEVERAL, "answers=sampled", "train.checkpoint_every_steps=1")
    code, _, err = distill("train", *SEVERAL, "answers=sampled", "--resume")
    assert code == 0, err
    assert f"going on from step-{step - 1:08d}" in err
    assert contents("runs/run") == whole[1]


def test_plan_names_each_teacher_and_the_student_alone_is_beside_it(whole, distill, monkeypatch):
    monkeypatch.setenv("DISTILL_CACHE", str(whole[0] / "cache"))
    code, out, err = distill("train", *SEVERAL, "answers=weighted", "control=true")
    assert code == 0, err
    assert "1. use the teacher timm/test_resnet again" in err
    assert "2. use the teacher timm/test_efficientnet again" in err
    assert "where the teacher is the weighted mean of 2 teachers" in err
    assert all(f"teachers.{number}, timm/test_" in err for number in (0, 1))
    assert "their weighted mean" in out
    assert summary()["alone"]["run"] == "run-alone"
    assert {"teachers.0", "teachers.1"} <= set(json.loads(Path("runs/run/fast.json").read_text()))
    code, _, err = distill("eval", "runs/run", "--role", "teacher")
    assert code == 2
    assert "has several teachers" in err


RANDOM = [*SMALL, "~teacher.check", "teacher=null", "teachers=[{model: timm/test_resnet, weights: random}, {model: resnet18, weights: random}]"]


def test_doctor_looks_at_several_teachers(distill):
    code, out, err = distill("doctor", *RANDOM[1:], "--json")
    assert code == 0, err
    found = json.loads(out)
    assert sum("random" in line for line in found["teacher"]) >= 2
    assert found["memory"]["needs"]["training the student"]["teacher"] > 4 * 11e6


NOT_TRAINED = "teachers=[{model: resnet18, weights: random}, {model: resnet18, recipe: r18_alone}]"
REFUSED = [
    (["losses.at.weight=1"], "losses.at: it looks at features"),
    (["losses.wkd_l.weight=1"], "losses.wkd_l: this loss needs the teacher's classifier"),
    (["teachers=[{model: resnet18, weights: random}, {model: resnet5, weights: random}]"], "teachers.1.model"),
    (["teacher={model: resnet18, weights: random}"], "teachers: says what teacher says too"),
    (
        ["data.labels=none", "losses.ce=null", NOT_TRAINED],
        "teachers.1.weights",
    ),
]


@pytest.mark.parametrize("overrides, words", REFUSED)
def test_what_several_teachers_can_not_do_is_refused(overrides, words, distill):
    code, _, err = distill("train", *RANDOM, *overrides)
    assert code == 2, err
    assert words in err


def test_topk_is_refused_for_a_mean(whole, distill, monkeypatch):
    monkeypatch.setenv("DISTILL_CACHE", str(whole[0] / "cache"))
    code, _, err = distill("train", *SEVERAL, "answers=weighted", TEACHERS.replace("weight: 3", "weight: 3, cache: {format: topk}"))
    assert code == 2
    assert "the mean of several teachers needs all of the teacher's logits" in err


def test_cache_commands_are_about_one_teacher(distill):
    code, _, err = distill("cache", "plan", *RANDOM[1:])
    assert code == 2
    assert "has several teachers" in err


# what a recipe says


def recipe(**more) -> Recipe:
    values = {"student": {"model": "resnet18"}, "losses": {"ce": {}, "kd": {}}, "data": {}, "train": {"epochs": 10, "lr": 0.1}}
    entries = [{"model": "resnet50", "weights": "a"}, {"model": "resnet34", "weights": "b"}]
    return Recipe.model_validate(values | {"teachers": entries} | more)


FAULTS = [
    ({"teachers": [{"model": "a", "weights": "w", "weight": 2}, {"model": "b", "weights": "w"}]}, "answers", "set answers=weighted"),
    ({"teachers": [{"model": "a", "weights": "w", "weight": 0}, {"model": "b", "weights": "w"}]}, "teachers.0.weight", "must be more than 0"),
    ({"teachers": [{"model": "a"}, {"model": "b", "weights": "w"}]}, "teachers.0.recipe", "must name the recipe"),
    ({"teachers": [{"model": "a", "weights": "w", "num_classes": 3}, {"model": "b", "weights": "w"}]}, "teachers.0.num_classes", "must be left out"),
    ({"teachers": [{"model": "a", "weights": "w", "cache": {"folder": "x"}}] * 2}, "teachers", "in one folder"),
    ({"chain": ["a", "b", "resnet18"]}, "chain", "needs a teacher section"),
]


@pytest.mark.parametrize("change, path, words", FAULTS)
def test_senseless_list_of_teachers_is_refused_in_plain_words(change, path, words):
    with pytest.raises(ValidationError) as caught:
        recipe(**change)
    assert words in {".".join(map(str, place)): message for place, message in what_is_wrong(caught.value)}[path]


def test_student_alone_does_not_depend_on_the_teachers():
    assert fingerprint(control_recipe(recipe(answers="sampled"))) == fingerprint(control_recipe(recipe(teachers=None)))


def test_checks_and_places_of_the_cache_decide_nothing():
    entries = [{"model": "resnet50", "weights": "a", "check": False, "cache": {"folder": "x"}}, {"model": "resnet34", "weights": "b"}]
    assert fingerprint(recipe(teachers=entries)) == fingerprint(recipe())
    assert fingerprint(recipe(answers="sampled")) != fingerprint(recipe())
