"""Comparisons of made-up runs, against numbers worked by hand."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_runs import NUM_TEST, answers, recipe, write_run, write_study
from scipy import stats

from distill.errors import DataError, RecipeError
from distill.report.compare_tables import markdown
from distill.report.comparison import compare
from distill.report.html import page
from distill.report.runs import read_run, read_runs
from distill.report.verdicts import verdicts

ALONE = {0: 800, 1: 810, 2: 805, 3: 795, 4: 800}
KD = {0: 830, 1: 836, 2: 838, 3: 824, 4: 827}


def compared(*places: str, against: str | None = None):
    runs, notes = read_runs(places or ["runs"])
    found = compare(runs, against)
    return found, {row.student.name: row for row in found.rows}, [*notes, *found.notes]


def test_row_is_what_one_works_out_by_hand():
    write_study(ALONE, kd=KD, at={seed: right + 1 for seed, right in ALONE.items()})
    found, rows, notes = compared()
    row = rows["kd"]
    differences = np.array([30, 26, 33, 29, 27]) / 1000
    half_width = stats.t.ppf(0.975, 4) * differences.std(ddof=1) / math.sqrt(5)
    assert row.top1.mean == pytest.approx(0.831)
    assert row.difference[:3] == pytest.approx((0.029, 0.029 - half_width, 0.029 + half_width))
    assert row.difference.p_value == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
    assert row.gap_closed == pytest.approx((0.831 - 0.802) / (0.9 - 0.802))
    assert row.best == (2.0, 0.82)
    assert (row.means["kl"], row.means["test_ece"], row.means["num_parameters"], row.means["seconds"]) == (0.125, 0.04, 11e6, 60)
    assert row.means["test_top5"] is None
    assert found.teachers == {"resnet50": 0.9}
    assert notes == []
    assert [row.student.name for row in found.rows] == ["resnet18 alone", "at", "kd"]


def test_student_alone_agrees_with_the_teacher_as_often_as_its_answers_do():
    write_study(ALONE, kd=KD)
    _, rows, _ = compared()
    teacher = answers(900, seed=99)
    expected = np.mean([(answers(right, seed) == teacher).mean() for seed, right in ALONE.items()])
    assert rows["resnet18 alone"].means["agreement"] == pytest.approx(expected)
    assert rows["resnet18 alone"].means["kl"] is None


def test_p_values_of_several_rows_are_adjusted_and_a_row_that_cannot_be_tested_does_not_count():
    write_study(ALONE, kd=KD, dkd={0: 810, 1: 812, 2: 812, 3: 800, 4: 808}, at={seed: right + 1 for seed, right in ALONE.items()})
    _, rows, _ = compared()
    plain = {name: rows[name].difference.p_value for name in ("kd", "dkd")}
    assert plain["kd"] < plain["dkd"]
    assert rows["kd"].adjusted_p == pytest.approx(2 * plain["kd"])
    assert rows["dkd"].adjusted_p == pytest.approx(plain["dkd"])
    assert math.isnan(rows["at"].adjusted_p)


@pytest.mark.parametrize(
    "kd, words",
    [
        (KD, "kd beats the same student alone by 2.90 ± 0.34 points (5 paired seeds, p < 0.0001)"),
        ({seed: 1600 - right for seed, right in KD.items()}, "kd falls behind the same student alone"),
        ({0: 803, 1: 807, 2: 812, 3: 790, 4: 805}, "kd and the same student alone can't be told apart with 5 paired seeds (+0.14 ± "),
        ({0: 801, 1: 811, 2: 806, 3: 796, 4: 801}, "kd is +0.10 points to the same student alone in each of 5 paired seeds"),
        ({0: 830}, "kd: +3.00 points to the same student alone with one seed, "),
    ],
)
def test_verdict_in_words(kd, words):
    write_study(ALONE if len(kd) > 1 else {0: 800}, kd=kd)
    found, *_ = compared()
    assert verdicts(found)[0].startswith(words)


def test_needed_seeds_are_named_where_the_seeds_do_not_suffice():
    write_study(ALONE, kd={0: 803, 1: 807, 2: 812, 3: 790, 4: 805})
    found, *_ = compared()
    assert "about 26 would be needed to see 0.3 points" in verdicts(found)[0]


def test_difference_that_counts_by_itself_but_not_among_many_is_said():
    gains = {0: 0, 1: 3, 2: 8, 3: 5, 4: 4}  # t = 3.09, p = 0.037
    rows = {name: {seed: right + gains[(seed + turn) % 5] for seed, right in ALONE.items()} for turn, name in enumerate(("kd", "dkd", "at"))}
    write_study(ALONE, **rows)
    sentences = verdicts(compared()[0])
    p_value = stats.ttest_1samp(list(gains.values()), 0).pvalue
    assert f"p = {p_value:.2g} by itself, p = {3 * p_value:.3f} as one of all that were tried" in sentences[0]


def test_noise_of_the_test_pictures_is_named_where_it_is_larger_than_that_of_the_seeds():
    write_study(ALONE, kd=KD)
    found, rows, _ = compared()
    right = [np.stack([run.is_right for run in rows[name].student.runs]) for name in ("kd", "resnet18 alone")]
    error = 1.959964 * (right[0].mean(0) - right[1].mean(0)).std(ddof=1) / math.sqrt(NUM_TEST)
    assert f"on 1,000 other test pictures it may be ± {100 * error:.2f} points" in verdicts(found)[0]


def test_row_without_a_control_says_so():
    write_run("kd-seed0", 830, recipe(0, ce={}, kd={}))
    found, rows, _ = compared()
    assert rows["kd"].reference is None
    assert verdicts(found) == ["kd: 83.00%, without a control: the same student alone was not run, so no gain can be claimed."]


def test_control_of_another_training_is_none():
    write_run("kd-seed0", 830, recipe(0, ce={}, kd={}))
    write_run("other-seed0", 800, recipe(0) | {"train": {"epochs": 4, "lr": 0.1}})
    _, rows, _ = compared()
    assert rows["kd"].reference is None


def test_other_seeds_are_compared_unpaired():
    write_study({0: 800, 1: 810, 2: 805}, kd={5: 830, 6: 836, 7: 838})
    _, rows, _ = compared()
    expected = stats.ttest_ind([0.83, 0.836, 0.838], [0.8, 0.81, 0.805], equal_var=False)
    assert rows["kd"].difference.p_value == pytest.approx(expected.pvalue)
    assert not rows["kd"].difference.is_paired


def test_one_seed_is_compared_with_the_same_seed_of_several():
    write_study(ALONE, kd={1: 830})
    found, rows, _ = compared()
    assert rows["kd"].difference.mean == pytest.approx(0.020)
    assert rows["kd"].pictures is not None
    assert "with one seed" in verdicts(found)[0]


def test_single_seed_that_the_other_lacks_can_not_be_tested():
    write_study(ALONE, kd={9: 830})
    found, *_ = compared()
    assert "one of the two has a single seed, which the other lacks: nothing can be tested" in verdicts(found)[0]


def test_only_common_seeds_are_paired():
    write_study(ALONE, kd={0: 830, 3: 824, 9: 990})
    _, rows, _ = compared()
    assert rows["kd"].difference.num == 2
    assert rows["kd"].difference.mean == pytest.approx((30 + 29) / 2000)
    assert rows["kd"].top1.num == 3


def test_student_alone_beside_a_run_is_found_without_being_named():
    write_study({0: 800}, kd={0: 830})
    path = Path("runs/kd-seed0/summary.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"alone": {"run": "alone-seed0"}}))
    _, rows, _ = compared("runs/kd-seed0")
    assert rows["kd"].reference.name == "resnet18 alone"


def test_others_can_be_compared_with_any_row():
    write_study(ALONE, kd=KD, dkd={seed: right + 4 + seed % 2 for seed, right in KD.items()})
    _, rows, _ = compared(against="kd")
    assert rows["dkd"].reference.name == "kd"
    assert rows["dkd"].difference.mean == pytest.approx(0.0044)
    assert rows["kd"].reference is None
    with pytest.raises(RecipeError, match="--against kdd: there is no such row; did you mean 'kd'"):
        compared(against="kdd")


def test_runs_on_other_data_are_refused_with_the_difference():
    write_study({0: 800}, kd={0: 830})
    write_run("other-seed1", 800, recipe(1), data={"fingerprint": "other", "num_test": 500})
    with pytest.raises(DataError, match=r"alone-seed0 and runs/other-seed1 have other data.*\(num_test: 1000 and 500\)"):
        compared()


def test_runs_of_another_split_of_the_same_size_are_refused():
    write_study({0: 800}, kd={0: 830})
    write_run("other-seed1", 800, recipe(1), data={"fingerprint": "other"})
    with pytest.raises(DataError, match="the same numbers of pictures, but other pictures or another split of them"):
        compared()


def test_equal_names_are_told_apart_by_what_differs():
    write_run("kd-seed0", 830, recipe(0, ce={}, kd={"temperature": 2}))
    write_run("kd-seed1", 840, recipe(1, ce={}, kd={"temperature": 8}))
    _, rows, _ = compared()
    assert list(rows) == ["kd (losses.kd.temperature=2)", "kd (losses.kd.temperature=8)"]


def test_what_all_names_begin_with_is_left_out():
    for loss in ("kd", "dkd"):
        write_run(f"r50_to_r18-{loss}-seed0", 830, recipe(0, ce={}, **{loss: {}}))
    write_run("r50_to_r18-resnet18-alone-seed0", 800, recipe(0))
    assert list(compared()[1]) == ["resnet18 alone", "dkd", "kd"]


def test_same_seed_twice_counts_once():
    write_study({0: 800}, kd={0: 830})
    write_run("kd-seed0-2", 500, recipe(0, ce={}, kd={}))
    _, rows, notes = compared()
    assert rows["kd"].top1 == (0.83, pytest.approx(math.nan, nan_ok=True), pytest.approx(math.nan, nan_ok=True), 1)
    assert notes == ["runs/kd-seed0-2 is left out: runs/kd-seed0 is the same recipe with the same seed"]


@pytest.mark.parametrize(
    "state, words",
    [
        ({"state": "running"}, "it is still going, or was killed"),
        ({"state": "stopped", "reason": "stopped by SIGTERM"}, "it is not finished (stopped by SIGTERM)"),
        ({"state": "failed", "reason": "no room"}, "it is not finished (no room)"),
    ],
)
def test_run_that_is_not_finished_is_left_out_and_said(state, words):
    write_study({0: 800}, kd={0: 830})
    Path("runs/kd-seed0/status.json").write_text(json.dumps(state))
    _, rows, notes = compared()
    assert list(rows) == ["resnet18 alone"]
    assert len(notes) == 1
    assert words in notes[0]
    with pytest.raises(DataError, match="there is no finished run to compare\nruns/kd-seed0 is left out"):
        read_runs(["runs/kd-seed0"])


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Path("empty").mkdir(), "empty is left out: no run is in this folder"),
        (lambda: Path("empty").write_text(""), "empty is left out: it is a file, and no run"),
        (lambda: None, "empty: there is no such folder"),
    ],
)
def test_place_without_runs_is_refused(make, words):
    make()
    with pytest.raises(DataError, match=words):
        read_runs(["empty"])


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda summary: summary.pop("distilled"), "the student's score on test is not in it"),
        (lambda summary: summary.update(distilled={"test_top1": "high"}), "the student's score on test is not in it"),
        (lambda summary: summary.update(data=3), "the student's score on test is not in it"),
        (
            lambda summary: summary.update(recipe={"losses": 3}),
            r"kd-seed0: its recipe can't be read: .*losses: must be a mapping \(key: value\), got 3",
        ),
        (lambda summary: summary.update(format=99), "format 99, and 2 is the newest known here; update distill"),
    ],
)
def test_damaged_summary_is_named(damage, words):
    path = write_run("kd-seed0", 830, recipe(0, ce={}, kd={})) / "summary.json"
    summary = json.loads(path.read_text())
    damage(summary)
    path.write_text(json.dumps(summary))
    with pytest.raises(DataError, match=words):
        read_run(path.parent)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no", None])
def test_damaged_answers_are_named(content):
    write_study({0: 800}, kd={0: 830})
    path = Path("runs/kd-seed0/predictions.npz")
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(DataError, match=r"predictions\.npz is missing or damaged"):
        compared()


def test_metrics_that_were_cut_short_are_used_as_far_as_they_go():
    write_study({0: 800}, kd={0: 830})
    path = Path("runs/kd-seed0/metrics.jsonl")
    path.write_text(path.read_text()[:-20])
    _, rows, notes = compared()
    assert rows["kd"].best == (2.0, 0.82)
    assert notes == ["runs/kd-seed0/metrics.jsonl: 1 line(s) of 4 can't be read and are left out"]


def test_run_of_the_older_format_is_compared_with_what_it_has():
    write_study({0: 800}, kd={0: 830})
    path = Path("runs/kd-seed0/summary.json")
    summary = json.loads(path.read_text())
    for name in ("recipe", "format"):
        summary.pop(name)
    summary["data"].pop("fingerprint")
    for name in ("test_ece", "kl", "cka"):
        summary["distilled"].pop(name)
    path.write_text(json.dumps(summary | {"format": 1}))
    _, rows, notes = compared()
    assert rows["kd"].difference.mean == pytest.approx(0.03)
    assert rows["kd"].means["test_ece"] is None
    assert notes == ["runs/kd-seed0 is of an older format: what it does not say is left empty; train it again to have it"]


def test_older_format_with_other_labels_is_refused():
    write_study({0: 800}, kd={0: 830})
    for name in ("alone", "kd"):
        path = Path(f"runs/{name}-seed0/summary.json")
        summary = json.loads(path.read_text())
        summary["data"].pop("fingerprint")
        path.write_text(json.dumps(summary))
    arrays = dict(np.load("runs/kd-seed0/predictions.npz"))
    np.savez(Path("runs/kd-seed0/predictions.npz"), **arrays | {"test_labels": arrays["test_labels"][::-1]})
    with pytest.raises(DataError, match="have other data"):
        compared()


def test_other_precision_or_teacher_is_said():
    write_study({0: 800, 1: 810}, kd={0: 830, 1: 836})
    path = Path("runs/kd-seed1/environment.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"precision": "bf16"}))
    path = Path("runs/kd-seed1/summary.json")
    summary = json.loads(path.read_text())
    summary["teacher"]["test_top1"] = 0.91
    path.write_text(json.dumps(summary))
    *_, notes = compared()
    assert notes == [
        "not all runs have the same precision: fp32 (alone-seed0), bf16 (kd-seed1)",
        "the teacher resnet50 was not the same in all runs: its test top-1 goes from 90.00% to 91.00%",
    ]


def test_no_torch_is_imported_to_compare(distill):
    write_study({0: 800, 1: 810}, kd={0: 830, 1: 836})
    code = "import sys; from distill.cli import main; code = main(['compare', 'runs']); sys.exit(code or 'torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_folder_that_was_moved_is_compared_all_the_same():
    write_study({0: 800, 1: 810}, kd={0: 830, 1: 836})
    shutil.move("runs", "elsewhere")
    assert compared("elsewhere")[1]["kd"].difference.mean == pytest.approx(0.028)


def test_row_that_others_are_compared_with_lacks_no_control():
    write_study(ALONE, kd=KD, dkd=KD)
    found, rows, _ = compared(against="kd")
    assert rows["kd"].is_reference
    assert not [sentence for sentence in verdicts(found) if "without a control" in sentence]
    assert "no control" not in markdown(found)


def test_single_seeds_are_adjusted_for_their_number():
    write_study({0: 800}, kd={0: 806}, dkd={0: 806}, at={0: 806})
    found, rows, _ = compared()
    plain = rows["kd"].pictures.p_value
    assert rows["kd"].adjusted_pictures_p == pytest.approx(min(1, 3 * plain))
    assert plain < 0.05 < 3 * plain  # six more right and none less: 2^-5
    assert all("not more than chance" in sentence and "as one of all that were tried" in sentence for sentence in verdicts(found)[:3])


def test_agreement_of_the_student_alone_is_with_one_teacher_only():
    write_study({0: 800}, kd={0: 830})
    values = recipe(0, ce={}, dkd={})
    path = write_run("dkd-seed0", 830, values)
    arrays = dict(np.load(path / "predictions.npz"))
    np.savez_compressed(path / "predictions.npz", **arrays | {"test_teacher": np.roll(arrays["test_teacher"], 3)})  # as often right, elsewhere
    assert compared()[1]["resnet18 alone"].means["agreement"] is None


def test_every_teacher_that_differs_is_said():
    write_study({0: 800}, kd={0: 830})
    for seed, top1 in ((0, 0.92), (1, 0.8)):
        values = recipe(seed, ce={}, kd={})
        values["teacher"]["model"] = "resnet101"
        write_run(f"big-seed{seed}", 830, values, teacher={"model": "resnet101", "test_top1": top1})
    assert any("resnet101 was not the same in all runs" in note for note in compared()[2])


def test_student_without_labels_has_a_control_with_labels():
    write_run("alone-seed0", 800, recipe(0))
    values = recipe(0, kd={})
    values["data"] = {"labels": "none"}
    write_run("kd-seed0", 830, values)
    assert compared()[1]["kd"].reference.name == "resnet18 alone"


def test_unpaired_groups_without_spread_are_not_called_paired():
    write_study({0: 800, 1: 800}, kd={2: 830, 3: 830})
    assert "in each of" not in verdicts(compared()[0])[0]


@pytest.mark.parametrize("place", [".", "../kd-seed0"])
def test_run_has_its_folders_name_however_it_is_reached(place, monkeypatch):
    write_study({}, kd={0: 830})
    monkeypatch.chdir("runs/kd-seed0")
    assert compared(place)[0].rows[0].student.name == "kd"


def test_what_else_a_wildcard_names_is_passed_over_and_said():
    write_study(ALONE, kd=KD)
    Path("runs/report.html").write_text("")
    Path("runs/tb").mkdir()
    _, rows, notes = compared(*map(str, sorted(Path("runs").iterdir())))
    assert set(rows) == {"resnet18 alone", "kd"}
    assert {"runs/report.html is left out: it is a file, and no run", "runs/tb is left out: no run is in this folder"} <= set(notes)


def change(path: Path, *keys: str, to: object) -> None:
    """One value of a JSON file; ... takes the key out."""
    values = json.loads(path.read_text())
    inner = values
    for key in keys[:-1]:
        inner = inner[key]
    inner.update({keys[-1]: to} if to is not ... else {})
    if to is ...:
        del inner[keys[-1]]
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    "file, keys, to",
    [
        ("summary.json", ("data", "note"), ...),
        ("environment.json", ("versions",), None),
        ("summary.json", ("teacher", "test_top1"), None),
        ("summary.json", ("teacher", "model"), ...),
        ("summary.json", ("alone",), "x"),
        ("summary.json", ("data", "class_names"), {"a": 1}),
        ("summary.json", ("distilled", "cka"), 3),
        ("summary.json", ("distilled", "cka"), {"layer1": None}),
    ],
)
def test_what_is_missing_or_odd_is_done_without(file, keys, to):
    write_study(ALONE, kd=KD)
    change(Path("runs/kd-seed1") / file, *keys, to=to)
    found, rows, _ = compared()
    assert rows["kd"].difference.mean == pytest.approx(0.029)
    assert "kd" in page(found)


@pytest.mark.parametrize("value", [math.nan, -0.1, 1.5, None, "0.8"])
def test_score_that_can_not_be_one_is_damage(value):
    write_study(ALONE, kd=KD)
    change(Path("runs/kd-seed1/summary.json"), "distilled", "test_top1", to=value)
    with pytest.raises(DataError, match=r"kd-seed1.*damaged"):
        compared()


@pytest.mark.parametrize("name, rows", [("test", 999), ("test_teacher", 999), ("test_labels", 1001)])
def test_answers_of_another_length_are_damage(name, rows):
    write_study(ALONE, kd=KD)
    path = Path("runs/kd-seed0/predictions.npz")
    np.savez_compressed(path, **dict(np.load(path)) | {name: np.zeros(rows, dtype=np.int32)})
    with pytest.raises(DataError, match=r"kd-seed0/predictions.npz does not fit summary.json"):
        compared()


def test_epoch_that_is_not_numbered_is_passed_over():
    write_study(ALONE, kd=KD)
    path = Path("runs/kd-seed0/metrics.jsonl")
    path.write_text(path.read_text() + json.dumps({"event": "epoch", "val_top1": 0.99}) + "\n")
    assert compared()[1]["kd"].best == (2, pytest.approx(0.82))
