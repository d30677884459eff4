"""The report as a page: whole, self-contained, and unharmed by names from strangers."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from fake_runs import recipe, write_run, write_study

from distill.errors import DataError
from distill.report.comparison import compare
from distill.report.html import page
from distill.report.page_conditions import recipe_differences
from distill.report.runs import read_runs

EMPTY = {"meta", "img", "br"}


class Tags(HTMLParser):
    """Raises where a tag is closed that is not open; keeps what the page loads."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.loads: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self.loads += [value for name, value in attributes if name in ("src", "href", "srcset", "data")]
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def made() -> str:
    return page(compare(read_runs(["runs"])[0]))


def write_pictures(path: Path, num: int = 3, **changes) -> None:
    columns = {"kind": np.zeros(num, int), "confidence": np.full(num, 0.75), "label": np.arange(num) % 3, "student": np.ones(num, int)}
    columns |= {"teacher": np.arange(num) % 3, "picture": np.full((num, 3, 28, 28), 200, dtype=np.uint8)}
    np.savez(path / "pictures.npz", **columns | changes)


def test_page_is_whole_and_loads_nothing():
    write_study({0: 800, 1: 810, 2: 806}, kd={0: 830, 1: 836, 2: 832}, at={0: 790, 1: 800, 2: 806})
    write_pictures(Path("runs/kd-seed0"))
    text = made()
    tags = Tags(text)
    assert {"script", "link", "iframe"}.isdisjoint(tags.seen)
    assert all(address.startswith("data:image/jpeg;base64,") for address in tags.loads)
    assert len(tags.loads) == 3
    assert not re.search(r"https?://|@import|url\(", text)
    assert "kd beats the same student alone by 2.73 ± " in text
    assert "<td>83.27 ± " in text
    assert "emu" in text
    assert "student: dog (75%)" in text
    assert tags.seen.count("svg") > 8
    assert '<th scope="col">layer4</th>' in text


def test_recipes_and_machines_that_differ_are_shown():
    write_run("cold-seed0", 830, recipe(0, ce={}, kd={"temperature": 2}))
    write_run("hot-seed0", 830, recipe(0, ce={}, kd={"temperature": 8}))
    text = made()
    assert '<th scope="row">losses.kd.temperature</th><td>2</td><td>8</td>' in text
    assert '<th scope="row">torch</th><td>2.14</td>' in text
    assert "2 runs, such as cold-seed0" in text


def test_names_from_strangers_are_text():
    bad = "<script>alert(1)</script>"
    write_run("x&<b>'\"", 830, recipe(0, ce={}, kd={}), data={"class_names": [bad, bad, bad]})
    write_pictures(next(Path("runs").iterdir()))
    text = made()
    assert "<script" not in text
    assert "<b>" not in text
    assert "&lt;script&gt;" in text
    Tags(text)


def test_run_without_pictures_has_none():
    write_study({0: 800}, kd={0: 830})
    assert "<img" not in made()


@pytest.mark.parametrize("changes", [{"picture": np.zeros((3, 28, 28))}, {"label": np.zeros(1, int)}, {"picture": np.zeros((3, 3, 9, 9))}])
def test_damaged_pictures_are_named(changes):
    write_study({0: 800}, kd={0: 830})
    write_pictures(Path("runs/kd-seed0"), **changes)
    with pytest.raises(DataError, match=r"pictures\.npz is damaged"):
        made()


def test_label_outside_of_the_names_is_shown_as_its_number():
    write_study({0: 800}, kd={0: 830})
    write_pictures(Path("runs/kd-seed0"), student=np.array([7, -1, 1]))
    assert "student: 7 (75%)" in made()


def test_report_of_fifty_runs_is_small(distill):
    write_study({seed: 800 + seed for seed in range(10)}, **{loss: {seed: 820 + seed for seed in range(10)} for loss in ("kd", "dkd", "at", "sp")})
    for path in Path("runs").iterdir():
        generator = np.random.default_rng(0)
        write_pictures(path, 24, picture=generator.integers(0, 256, (24, 3, 64, 64), dtype=np.uint8))
    code, _, err = distill("compare", "runs", "--html", "report.html")
    assert code == 0, err
    assert Path("report.html").stat().st_size < 3_000_000


def test_report_that_can_not_be_written_is_said(distill):
    write_study({0: 800}, kd={0: 830})
    code, _, err = distill("compare", "runs", "--html", "nowhere/report.html")
    assert code == 2
    assert "can't write nowhere/report.html: No such file or directory" in err


def test_what_only_having_a_teacher_brings_is_no_difference():
    write_study({0: 800}, kd={0: 830}, dkd={0: 831})
    heading, cells = recipe_differences(compare(read_runs(["runs"])[0]))
    assert heading == ["", "resnet18 alone", "dkd", "kd"]
    lines = {path: values for path, *values in cells}
    assert lines["teacher"] == ["no", "yes", "yes"]
    assert not [path for path in lines if path.startswith("teacher.")]
    assert all(len(set(values)) > 1 for values in lines.values())


def test_values_of_teachers_that_differ_are_shown():
    write_run("kd-seed0", 830, recipe(0, ce={}, kd={}))
    values = recipe(0, ce={}, kd={})
    values["teacher"]["model"] = "resnet101"
    write_run("big-seed0", 840, values)
    _, cells = recipe_differences(compare(read_runs(["runs"])[0]))
    assert ["teacher.model", "resnet101", "resnet50"] in cells
