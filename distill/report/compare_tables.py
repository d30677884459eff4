"""A comparison as a table: on the terminal, in Markdown, as CSV and as JSON, all of the same cells."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

from rich.table import Table

from distill.report.comparison import COLUMNS, Comparison, Row
from distill.report.console import duration, printable
from distill.report.verdicts import p_in_words, points, verdicts

_COST = ("num_parameters", "gmacs", "images_per_second", "latency_ms", "seconds")
_ANSWERS = tuple(name for name in COLUMNS if name not in _COST)
_ABSENT = "-"


def terminal_tables(comparison: Comparison) -> Iterator[Table]:
    """What is claimed, the answers, and the cost; each fits 100 columns."""
    for title, heading, cells in tables(comparison):
        table = Table(title=printable(title), title_justify="left")
        for number, name in enumerate(heading):
            table.add_column(printable(name), justify="left" if not number else "right")
        for name, *values in cells:
            table.add_row(printable(name), *values)
        yield table


def markdown(comparison: Comparison) -> str:
    """Tables, teachers and verdicts."""
    blocks = []
    for _, heading, cells in tables(comparison):
        lines = [heading, [":--", *["--:"] * (len(heading) - 1)], *cells]
        blocks.append("\n".join("| " + " | ".join(_escaped(cell) for cell in line) + " |" for line in lines))
    sentences = [*_about(comparison), *verdicts(comparison), *(f"Note: {note}" for note in comparison.notes)]
    blocks.append("\n".join(f"- {_escaped(sentence)}" for sentence in sentences))
    return "\n\n".join(blocks) + "\n"


def csv_text(comparison: Comparison) -> str:
    """One line a row, numbers in full, fractions."""
    rows = [_flat(row) for row in comparison.rows]
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _guarded(value) for name, value in row.items()} for row in rows)
    return file.getvalue()


def json_text(comparison: Comparison) -> str:
    """Everything, for programs; what is not known is null."""
    rows = [_flat(row) | {"runs": [str(run.path) for run in row.student.runs], "seeds": sorted(row.student.by_seed)} for row in comparison.rows]
    found = {"rows": rows, "teachers": comparison.teachers, "num_test": comparison.num_test}
    return json.dumps(found | {"verdicts": verdicts(comparison), "notes": comparison.notes}, indent=2, allow_nan=False) + "\n"


def _about(comparison: Comparison) -> list[str]:
    teachers = [f"Teacher {model}: {top1:.2%} on test." for model, top1 in comparison.teachers.items()]
    return [*teachers, f"Accuracies are those of the last epoch on {comparison.num_test:,} test pictures, with 95 % intervals over seeds."]


def tables(comparison: Comparison) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """(title, headings, cells) of what is claimed, of the answers, and of the cost."""
    references = {row.reference.name: row.reference.is_alone for row in comparison.rows if row.reference}
    against = "vs alone" if all(references.values()) else f"vs {', '.join(sorted(references))}"
    heading = ["", "seeds", "test top-1, %", f"{against}, points", "p (Holm)", "gap closed", "best val epoch, %"]
    title = f"test top-1 of the last epoch on {comparison.num_test:,} pictures, 95 % intervals over seeds"
    yield f"{title}{_teachers(comparison)}", heading, [_claim(row) for row in comparison.rows]
    for title, names in (("the answers on test, means over seeds", _ANSWERS), ("the cost, means over seeds", _COST)):
        yield title, ["", *(COLUMNS[name] for name in names)], [[row.student.name, *_rest(row, names)] for row in comparison.rows]


def _teachers(comparison: Comparison) -> str:
    return "".join(f"; teacher {model} {top1:.2%}" for model, top1 in comparison.teachers.items())


def _claim(row: Row) -> list[str]:
    top1, difference = row.top1, row.difference
    best = _ABSENT if row.best is None else f"{100 * row.best[1]:.2f} (epoch {_epoch(row.best[0])})"
    cells = [row.student.name, str(top1.num), _with_half_width(points(top1.mean), top1.high - top1.mean)]
    if difference is None:
        cells += [_ABSENT if row.student.is_alone or row.is_reference else "no control", _ABSENT]
    else:
        p_value = _ABSENT if math.isnan(row.adjusted_p) else p_in_words(row.adjusted_p).removeprefix("p ").removeprefix("= ")
        cells += [_with_half_width(f"{100 * difference.mean:+.2f}", difference.high - difference.mean), p_value]
    return [*cells, _ABSENT if row.gap_closed is None else f"{row.gap_closed:.0%}", best]


def _epoch(mean: float) -> str:
    """A mean over seeds: 4, or 18.3."""
    return f"{mean:.1f}".removesuffix(".0")


def _with_half_width(text: str, half_width: float) -> str:
    return text if math.isnan(half_width) or half_width < 1e-12 else f"{text} ± {points(half_width)}"


def _rest(row: Row, names: Iterable[str]) -> list[str]:
    shown = {
        "num_parameters": lambda value: f"{value / 1e6:.2f} M",
        "gmacs": lambda value: f"{value:.3f}",
        "images_per_second": lambda value: f"{value:,.0f}",
        "latency_ms": lambda value: f"{value:.2f}",
        "seconds": duration,
        "kl": lambda value: f"{value:.3f}",
        "test_ece": lambda value: f"{value:.3f}",
        "test_nll": lambda value: f"{value:.3f}",
        "test_brier": lambda value: f"{value:.3f}",
    }
    return [_ABSENT if (value := row.means[name]) is None else shown.get(name, "{:.1%}".format)(value) for name in names]


def _flat(row: Row) -> dict[str, Any]:
    difference = row.difference
    found = {
        "name": row.student.name,
        "is_alone": row.student.is_alone,
        "num_seeds": row.top1.num,
        "test_top1": row.top1.mean,
        "test_top1_low": row.top1.low,
        "test_top1_high": row.top1.high,
        "compared_with": row.reference.name if row.reference else None,
        "difference": difference.mean if difference else None,
        "difference_low": difference.low if difference else None,
        "difference_high": difference.high if difference else None,
        "is_paired": difference.is_paired if difference else None,
        "p_value": difference.p_value if difference else None,
        "adjusted_p_value": row.adjusted_p,
        "mcnemar_p_value": row.pictures.p_value if row.pictures else None,
        "sampling_error": row.sampling,
        "gap_closed": row.gap_closed,
        "best_epoch": row.best[0] if row.best else None,
        "best_val_top1": row.best[1] if row.best else None,
        **row.means,
    }
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in found.items()}


def _escaped(text: str) -> str:
    """Names may come from a stranger's folders."""
    return printable(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _guarded(value: Any) -> Any:
    """A spreadsheet would take such a name for a formula. Names of folders may hold what UTF-8 has no bytes for."""
    value = printable(value) if isinstance(value, str) else value
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value
