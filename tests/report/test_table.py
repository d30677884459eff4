"""The table and the sentence under it, and the statistics behind the sentence."""

import io

import numpy as np
import pytest
from rich.console import Console

from distill.report.console import RunProgress, duration
from distill.report.statistics import paired_difference
from distill.report.table import result_table, verdict

ROW = {"model": "resnet18", "val_top1": 0.871, "test_top1": 0.8654, "num_parameters": 11_181_642, "gmacs": 0.0342, "images_per_second": 3412.7}
SUMMARY = {
    "run_name": "r50_to_r18-seed0",
    "seed": 0,
    "data": {"num_test": 2000},
    "teacher": ROW | {"model": "resnet50", "test_top1": 0.88},
    "alone": ROW,
    "distilled": ROW | {"test_top1": 0.8812, "agreement": 0.934},
}


def rendered(renderable) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(renderable)
    return console.file.getvalue()


def test_table_shows_each_network_with_its_scores_and_costs():
    text = rendered(result_table(SUMMARY))
    assert [name for name in ("teacher", "student alone", "distilled student") if name in text] == ["teacher", "student alone", "distilled student"]
    for value in ("88.12%", "86.54%", "93.4%", "11.18 M", "0.034", "3,413"):
        assert value in text


def test_table_without_a_control_has_no_row_for_it():
    assert "student alone" not in rendered(result_table({key: value for key, value in SUMMARY.items() if key != "alone"}))


def test_paired_difference_by_hand():
    """10 pictures: 4 both right, 3 only ours, 1 only theirs, 2 both wrong. McNemar's p: 2 * P(X >= 3), X ~ B(4, 1/2) = 2 * 5 / 16."""
    ours = np.array([1, 1, 1, 1, 1, 1, 1, 0, 0, 0], dtype=bool)
    theirs = np.array([1, 1, 1, 1, 0, 0, 0, 1, 0, 0], dtype=bool)
    result = paired_difference(ours, theirs)
    assert result.difference == pytest.approx(0.2)
    assert result.p_value == pytest.approx(2 * 5 / 16)
    half = 1.959964 * (4 - 4 / 10) ** 0.5 / 10
    assert (result.low, result.high) == pytest.approx((0.2 - half, 0.2 + half))


def test_equal_students_have_no_difference():
    right = np.array([True, False, True])
    assert paired_difference(right, right) == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("gained", "lost", "parts"),
    [(20, 18, ["can't be told apart", "within noise"]), (60, 20, ["2.00 points better"]), (20, 60, ["2.00 points worse"])],
)
def test_sentence_says_what_the_numbers_say(gained, lost, parts):
    ours, theirs = np.zeros(2000, dtype=bool), np.zeros(2000, dtype=bool)
    ours[:gained] = True
    theirs[gained : gained + lost] = True
    sentence = verdict(SUMMARY, paired_difference(ours, theirs))
    for part in [*parts, "88.12% against 86.54%", "2,000 test pictures, one seed"]:
        assert part in sentence


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")])
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text


def test_progress_in_a_file_is_plain_lines_with_every_term():
    console = Console(file=io.StringIO(), width=1000)
    with RunProgress(console, "run", num_steps=4, num_epochs=2) as progress:
        progress({"event": "train", "epoch": 1, "step": 1, "loss": 1.5, "ce": 1.0, "kd": 0.5, "top1": 0.25, "lr": 0.1, "images_per_second": 100.0})
        progress._last_line -= 60
        progress({"event": "train", "epoch": 1, "step": 2, "loss": 1.25, "ce": 1.0, "kd": 0.25, "top1": 0.5, "lr": 0.1, "images_per_second": 1234.5})
        progress({"event": "epoch", "epoch": 1, "step": 2, "val_top1": 0.755, "val_nll": 0.7})
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 2
    for part in ("run: step 2/4", "epoch 1/2", "loss 1.250 (ce 1.000 kd 0.250)", "train 50.0%", "1,234 images/s", "left"):
        assert part in lines[0]
    assert "val 75.5%" in lines[1]


def test_progress_on_a_terminal_is_a_live_line_that_ends_with_the_last_values():
    console = Console(file=io.StringIO(), width=200, force_terminal=True)
    with RunProgress(console, "run", num_steps=2, num_epochs=1) as progress:
        progress({"event": "train", "epoch": 1, "step": 2, "loss": 1.5, "ce": 1.5, "top1": 0.25, "lr": 0.1, "images_per_second": 100.0})
        progress({"event": "epoch", "epoch": 1, "step": 2, "val_top1": 0.5, "val_nll": 0.7})
    assert "2/2" in console.file.getvalue()
    assert "val 50.0%" in console.file.getvalue()
