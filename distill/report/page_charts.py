"""The charts of a report: what is drawn of a comparison's runs."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from distill.report.calibration import calibration_bins
from distill.report.comparison import Comparison, Row
from distill.report.console import printable
from distill.report.drawing import Chart, Range, key, range_of
from distill.report.runs import Run

_MOST_CLASSES = 30
_FEW = 5  # answers: a bin with fewer says nothing
_ROW_HEIGHT = 26
_NO_CHART = "<p>No run has what this picture needs.</p>"


def interval_chart(comparison: Comparison) -> str:
    """Each student's test top-1: single seeds, mean, 95 % interval; the teacher as a line."""
    rows = comparison.rows
    values = [100 * run.row["test_top1"] for run in comparison.runs]
    values += [100 * end for row in rows for end in (row.top1.low, row.top1.high)] + [100 * top1 for top1 in comparison.teachers.values()]
    x = range_of(values)
    size = 500, 70 + _ROW_HEIGHT * len(rows)
    chart = Chart("test top-1 by student", x, Range(0, len(rows)), x_title="test top-1 of the last epoch, %", size=size, left=150)
    chart.axes(_number, None)
    for model, top1 in comparison.teachers.items():
        chart.across(100 * top1, f"teacher {model}")
    for number, row in enumerate(rows):
        height, style = len(rows) - number - 0.5, 0 if row.student.is_alone else 1
        chart.words(chart.left - 8, chart.place((0, height))[1] + 4, _short(row.student.name), anchor="end")
        chart.line([(100 * row.top1.low, height), (100 * row.top1.high, height)], 0, kind="interval")
        for run in row.student.runs:
            chart.mark((100 * run.row["test_top1"], height - 0.32), style, size=2, name=f"seed {run.seed}", is_round=True)
        chart.mark((100 * row.top1.mean, height), style, size=5, name=f"{row.student.name}: {row.top1.mean:.2%}")
    return chart.svg


def learning_curves(comparison: Comparison) -> str:
    """Val top-1 by epoch: mean over seeds, and the band from the lowest to the highest."""
    curves = [(row, _by_step(row.student.runs, "epoch", "epoch", "val_top1", 100)) for row in comparison.rows]
    return _lines("val top-1 by epoch", curves, "epoch", "%")


def loss_curves(comparison: Comparison) -> Iterator[str]:
    """The training loss by step, and each of its terms, a chart for each student: their sizes have nothing in common."""
    for row in comparison.rows:
        terms = list(dict.fromkeys(name for run in row.student.runs for event in run.events if event.get("event") == "train" for name in event))
        terms = ["loss", *(name for name in terms if name in row.student.runs[0].recipe.losses)]
        curves = [(name, _by_step(row.student.runs, "train", "step", name, 1)) for name in terms]
        yield f"<h3>{_escaped(row.student.name)}</h3>{_lines('training loss of ' + row.student.name, curves, 'step', '')}"


def reliability_chart(comparison: Comparison) -> str:
    """Of the answers that a student is so sure of, how many are right; on the diagonal its probabilities are true. All seeds together; bins of fewer
    than 5 answers are left out."""
    chart = Chart("reliability", Range(0, 1), Range(0, 1), x_title="how sure, mean of a bin", y_title="right", size=(400, 380))
    chart.axes(_share, _share)
    chart.line([(0, 0), (1, 1)], 0, kind="reference")
    names = []
    for number, row in enumerate(comparison.rows):
        known = [run for run in row.student.runs if "test_confidences" in run.answers]
        if not known:
            continue
        confidences = np.concatenate([run.answers["test_confidences"] for run in known])
        bins = calibration_bins(confidences, np.concatenate([run.is_right for run in known]))
        shown = [(num, (x, y)) for num, x, y in zip(*bins, strict=True) if num >= _FEW]
        chart.line([point for _, point in shown], number)
        for num, point in shown:
            chart.mark(point, number, size=2 + 4 * math.sqrt(num / bins.num.sum()), name=f"{row.student.name}: {num:,} answers")
        names.append((row.student.name, number))
    return key(names) + chart.svg if names else _NO_CHART


def class_chart(comparison: Comparison) -> str:
    """Test accuracy by class of the best student, of the same student alone, and of the teacher; the classes with the largest gain first."""
    row = max((row for row in comparison.rows if row.reference is not None), key=lambda row: row.top1.mean, default=None)
    if row is None:
        return _NO_CHART
    ours, theirs = _by_class(row.student.runs), _by_class(row.reference.runs)
    series = [(row.student.name, ours, 1), (row.reference.name, theirs, 0), ("the teacher", _teacher_by_class(row), 3)]
    series = [one for one in series if one[1] is not None]
    gain = ours - theirs
    order = np.argsort(-np.nan_to_num(gain, nan=-9.0), kind="stable")
    shown = order if len(order) <= _MOST_CLASSES else np.concatenate([order[: _MOST_CLASSES // 2], order[-_MOST_CLASSES // 2 :]])
    x = range_of(100 * value for _, values, _ in series for value in values[shown])
    size = 500, 70 + _ROW_HEIGHT * len(shown)
    chart = Chart("accuracy by class", x or Range(0, 100), Range(0, len(shown)), x_title="of the class's test pictures right, %", size=size, left=150)
    chart.axes(_number, None)
    class_names = comparison.runs[0].class_names
    for number, label in enumerate(shown):
        height = len(shown) - number - 0.5
        name = class_names[label] if label < len(class_names) else str(label)
        chart.words(chart.left - 8, chart.place((0, height))[1] + 4, _short(name), anchor="end")
        chart.line([(100 * values[label], height) for _, values, _ in series[:2] if math.isfinite(values[label])], 0, kind="interval")
        for who, values, style in series:
            chart.mark((100 * values[label], height), style, name=f"{who}: {values[label]:.1%}")
    left_out = f"<p>{len(order) - len(shown):,} classes in between are left out.</p>" if len(shown) < len(order) else ""
    return key([(name, style) for name, _, style in series]) + chart.svg + left_out


def similarity_cells(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """(headings, cells): CKA of teacher and student by layer, means over seeds."""
    rows = [row for row in comparison.rows if any(run.cka for run in row.student.runs)]
    layers = list(dict.fromkeys(layer for row in rows for run in row.student.runs for layer in run.cka))
    return ["", *layers], [[row.student.name, *(_mean_cka(row, layer) for layer in layers)] for row in rows]


def pareto_chart(comparison: Comparison, column: str, x_title: str) -> str:
    """Test top-1 of students and teachers against a cost in COLUMNS; the line joins those that nothing cheaper beats."""
    points = [(cost, 100 * row.top1.mean, row.student.name) for row in comparison.rows if (cost := row.means[column])]
    points += [(cost, 100 * comparison.teachers[model], f"teacher {model}") for model, cost in _of_teachers(comparison, column).items()]
    x, y = (range_of(values, margin=0.12) for values in ([cost for cost, _, _ in points], [top1 for _, top1, _ in points]))
    if x is None or y is None:
        return _NO_CHART
    chart = Chart(f"accuracy against {x_title}", x, y, x_title=x_title, y_title="%")
    chart.axes(_number, _number)
    names = []
    for number, (cost, top1, name) in enumerate(points):
        chart.mark((cost, top1), number, size=5, name=f"{name}: {top1:.2f} %, {cost:.4g} {x_title}")
        names.append((f"{name}, {top1:.2f} %", number))
    best, front = -math.inf, []
    for cost, top1, _ in sorted(points, key=lambda point: (point[0], -point[1])):
        if top1 > best:
            best = top1
            front.append((cost, top1))
    chart.line(front, 0, kind="reference")
    return key(names) + chart.svg


def _of_teachers(comparison: Comparison, column: str) -> dict[str, float]:
    """model -> its mean over runs."""
    found: dict[str, list[float]] = {}
    for run in comparison.runs:
        if run.teacher.get(column):
            found.setdefault(run.teacher["model"], []).append(run.teacher[column])
    return {model: float(np.mean(values)) for model, values in found.items()}


Curve = tuple[list[float], list[float], list[float], list[float]]  # places, mean, lowest, highest


def _lines(title: str, curves: Sequence[tuple[Row | str, Curve]], x_title: str, y_title: str) -> str:
    named = [(name if isinstance(name, str) else name.student.name, curve) for name, curve in curves if curve[0]]
    x = range_of((place for _, curve in named for place in curve[0]), margin=0.02, least=1)  # one place alone has room too
    y = range_of(value for _, curve in named for values in curve[1:] for value in values)
    if x is None or y is None:
        return _NO_CHART
    chart = Chart(title, x, y, x_title=x_title, y_title=y_title)
    chart.axes(_number, _number)
    for number, (_, (places, mean, low, high)) in enumerate(named):
        chart.band(list(zip(places, low, strict=True)), list(zip(places, high, strict=True)), number)
        chart.line(list(zip(places, mean, strict=True)), number)
        if len(places) == 1:
            chart.mark((places[0], mean[0]), number)
    return key([(name, number) for number, (name, _) in enumerate(named)]) + chart.svg


def _by_step(runs: Iterable[Run], kind: str, place: str, column: str, factor: float) -> Curve:
    found: dict[float, list[float]] = {}
    for run in runs:
        for event in run.events:
            value = event.get(column)
            if event.get("event") == kind and isinstance(value, int | float) and isinstance(event.get(place), int | float):
                found.setdefault(event[place], []).append(factor * value)
    places = sorted(found)
    mean, low, high = ([float(reduce(found[one])) for one in places] for reduce in (np.mean, np.min, np.max))
    return places, mean, low, high


def _by_class(runs: Sequence[Run]) -> np.ndarray:
    """[K], mean over seeds; NaN for a class without test pictures."""
    return np.mean([_class_means(run.is_right, run.labels, int(run.data.get("num_classes") or 0)) for run in runs], axis=0)


def _teacher_by_class(row: Row) -> np.ndarray | None:
    run = row.student.runs[0]
    if run.teacher_predictions is None:
        return None
    return _class_means(run.teacher_predictions == run.labels, run.labels, int(run.data.get("num_classes") or 0))


def _class_means(is_right: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    num_classes = max(num_classes, int(labels.max(initial=0)) + 1)
    num, right = (np.bincount(labels, weights=weights, minlength=num_classes).astype(float) for weights in (None, is_right.astype(float)))
    return np.divide(right, num, out=np.full(num_classes, np.nan), where=num > 0)


def _mean_cka(row: Row, layer: str) -> str:
    values = [run.cka[layer] for run in row.student.runs if layer in run.cka]
    return f"{np.mean(values):.2f}" if values else "-"


def _number(value: float) -> str:
    return f"{value:.6g}"


def _share(value: float) -> str:
    return f"{value:.1f}"


def _short(name: str) -> str:
    return name if len(name) <= 20 else f"{name[:9]}…{name[-10:]}"


def _escaped(name: str) -> str:
    return html.escape(printable(name))
