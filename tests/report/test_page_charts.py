"""The charts of a report: every mark lies inside its picture, whatever the numbers; and colours can be seen."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from fake_runs import recipe, write_run, write_study
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.report import page_charts
from distill.report.comparison import compare
from distill.report.drawing import NUM_COLOURS, Chart, Range, key, range_of
from distill.report.runs import read_runs

CSS = (Path(page_charts.__file__).parent / "report.css").read_text()
CHARTS = [
    page_charts.interval_chart,
    page_charts.learning_curves,
    lambda comparison: "".join(page_charts.loss_curves(comparison)),
    page_charts.reliability_chart,
]
CHARTS += [page_charts.class_chart, lambda comparison: page_charts.pareto_chart(comparison, "gmacs", "GMACs")]
numbers = st.floats(allow_nan=True, allow_infinity=True, width=32)


def pictures(text: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]


def check_inside(svg: ElementTree.Element) -> None:
    _, _, width, height = map(float, svg.get("viewBox").split())
    for element in svg.iter():
        places = [(element.get(x), element.get(y)) for x, y in (("x", "y"), ("x1", "y1"), ("x2", "y2"), ("cx", "cy")) if element.get(x) is not None]
        places += [point.split(",") for point in (element.get("points") or "").split()]
        places += re.findall(r"[ML](\S+) (\S+)", element.get("d") or "")
        for x, y in places:
            assert -8 <= float(x) <= width + 8, (element.tag, element.attrib)
            assert -8 <= float(y) <= height + 8, (element.tag, element.attrib)


def made():
    return compare(read_runs(["runs"])[0])


@given(st.lists(st.tuples(numbers, numbers), max_size=8), st.integers(0, 20), st.text(max_size=40))
@settings(max_examples=300, deadline=None)
def test_marks_of_any_numbers_are_inside(points, style, name):
    x, y = range_of(point[0] for point in points), range_of(point[1] for point in points)
    if x is None or y is None:
        return
    chart = Chart(name, x, y, x_title=name, y_title="%")
    chart.axes(str, str)
    chart.line(points, style)
    chart.band(points, points, style)
    for point in points:
        chart.mark(point, style, name=name)
    check_inside(ElementTree.fromstring(chart.svg))
    assert "nan" not in chart.svg.replace(chart.title, "").lower() or "nan" in name.lower()


@pytest.mark.parametrize(
    "low, high, expected", [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (82.3, 87.9, [84, 86]), (0, 12, [0, 5, 10]), (-1, 1, [-1, -0.5, 0, 0.5, 1])]
)
def test_ticks_are_round(low, high, expected):
    assert Range(low, high).ticks == pytest.approx(expected)


@pytest.mark.parametrize("draw", CHARTS)
def test_chart_of_a_study_has_all_its_students(draw):
    write_study({0: 800, 1: 810}, kd={0: 830, 1: 836}, at={0: 790, 1: 800})
    text = draw(made())
    assert pictures(text)
    for svg in pictures(text):
        check_inside(svg)
    assert "kd" in text


@pytest.mark.parametrize("draw", CHARTS)
def test_chart_of_one_run_without_anything_beside_it_is_a_picture_or_a_sentence(draw):
    path = write_run("kd-seed0", 830, recipe(0, ce={}, kd={}))
    (path / "metrics.jsonl").write_text("")
    summary = json.loads((path / "summary.json").read_text())
    summary.pop("teacher")
    for name in ("gmacs", "cka", "kl"):
        summary["distilled"].pop(name)
    (path / "summary.json").write_text(json.dumps(summary))
    arrays = dict(np.load(path / "predictions.npz"))
    np.savez(path / "predictions.npz", test=arrays["test"], test_labels=arrays["test_labels"])
    text = draw(made())
    assert "<svg" in text or "<p>" in text
    for svg in pictures(text):
        check_inside(svg)


def test_learning_curve_is_the_mean_and_the_range_of_the_seeds():
    write_study({0: 800, 1: 810})
    path = Path("runs/alone-seed1/metrics.jsonl")
    path.write_text(path.read_text().replace("0.82", "0.9"))
    curve = page_charts._by_step(made().runs, "epoch", "epoch", "val_top1", 100)
    assert curve[0] == [1, 2, 3]
    assert curve[1] == pytest.approx([70, 86, 80])
    assert (curve[2][1], curve[3][1]) == pytest.approx((82, 90))


def test_many_classes_show_the_largest_gains_and_losses():
    names = [f"class{number}" for number in range(100)]
    write_run("alone-seed0", 800, recipe(0), data={"num_classes": 100, "class_names": names})
    write_run("kd-seed0", 830, recipe(0, ce={}, kd={}), data={"num_classes": 100, "class_names": names})
    assert "70 classes in between are left out" in page_charts.class_chart(made())


def test_series_differ_by_shape_or_dash_and_not_by_colour_alone():
    looks = set()
    for style in range(NUM_COLOURS):
        svg = re.sub(r"s\d", "", key([("name", style)]))
        looks.add(svg)
    assert len(looks) == NUM_COLOURS


def test_more_series_than_colours_still_look_different():
    assert len({key([("name", style)]) for style in range(5 * NUM_COLOURS)}) == 5 * NUM_COLOURS


def luminance(colour: str) -> float:
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("is_dark, ground", [(False, "#ffffff"), (True, "#14171a")])
def test_colours_stand_out_from_the_ground(is_dark, ground):
    """WCAG 2: 3 to 1 for parts of pictures, 4.5 to 1 for text."""
    colours = re.findall(r"\.s\d \{ --c: (#\w{6})", CSS)
    assert len(colours) == 2 * NUM_COLOURS
    texts = re.findall(r"--(?:ink|quiet): (#\w{6})", CSS)[:4]
    for colour, least in [*((one, 3) for one in colours[NUM_COLOURS * is_dark :][:NUM_COLOURS]), *((one, 4.5) for one in texts[2 * is_dark :][:2])]:
        light, dark = sorted((luminance(colour), luminance(ground)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= least, colour


def test_nothing_finite_has_no_range():
    assert range_of([math.nan, math.inf]) is None
    assert range_of([]) is None
    found = range_of([0.5, 0.5])
    assert found.low < 0.5 < found.high
