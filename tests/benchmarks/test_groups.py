"""Groups of processes that are compared: that they do the same work, and what is said when one fails."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks import scaling
from benchmarks.children import Group


def first_block(pictures: list, loss: float, processes: int) -> dict:
    return {"pictures": pictures, "loss": loss, "num_processes": processes}


@pytest.mark.parametrize(
    "theirs, words",
    [
        ([first_block([[[1, 7]]], 2.0, 2), first_block([[[0, 9]]], 2.0, 2)], "did not see the pictures"),  # picture 0 in another view
        ([first_block([[[1, 7]]], 4.0, 2), first_block([[[0, 5]]], 4.0, 2)], "the losses of the first block"),
        ([first_block([[[1, 7]]], 2.0, 1), first_block([[[0, 5]]], 2.0, 1)], "has worked alone"),
    ],
)
def test_groups_that_do_other_work_are_not_compared(theirs, words):
    one = [first_block([[[0, 5], [1, 7]]], 2.0, 1)]
    with pytest.raises(SystemExit, match=words):
        scaling.require_same_work({"1": one, "2": theirs})


def test_process_that_dies_is_told_with_what_it_said():
    Path("dies.py").write_text("import sys\nprint('no such thing', file=sys.stderr)\nsys.exit(3)\n")
    with pytest.raises(SystemExit, match=r"(?s)process 0 of 1 ended with code 3.*no such thing"), Group("it", "dies", [], [{}], patience=60) as group:
        group.answers()


def test_process_that_does_not_answer_is_given_up_and_ended():
    Path("sleeps.py").write_text("import time\ntime.sleep(600)\n")
    with pytest.raises(SystemExit, match=r"has not answered within 0\.2 seconds"), Group("it", "sleeps", [], [{}], patience=0.2) as group:
        group.answers()
    assert [process.poll() for process in group._processes] == [-9]
