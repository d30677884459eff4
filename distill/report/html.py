"""A comparison as one file for a browser: no network, no script, readable on a phone, in print, and by who can't tell colours apart."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from importlib import resources

from distill.report.compare_tables import tables
from distill.report.comparison import Comparison
from distill.report.console import printable
from distill.report.page_charts import (
    class_chart,
    interval_chart,
    learning_curves,
    loss_curves,
    pareto_chart,
    reliability_chart,
    similarity_cells,
)
from distill.report.page_conditions import conditions, recipe_differences
from distill.report.page_pictures import Picture, differing_pictures
from distill.report.verdicts import verdicts

_TITLE = "Students compared"
_COSTS = (("gmacs", "GMACs a picture"), ("latency_ms", "ms for one picture"))


def page(comparison: Comparison) -> str:
    """The whole file's text."""
    css = resources.files("distill.report").joinpath("report.css").read_text(encoding="utf-8")
    parts = [
        section("What may be claimed", sentences(verdicts(comparison))),
        *(section(title[:1].upper() + title[1:], table(heading, cells)) for title, heading, cells in tables(comparison)),
        section("Test top-1, single seeds (small), mean and 95 % interval", side_by_side([interval_chart(comparison)])),
        section("Accuracy against cost", side_by_side(pareto_chart(comparison, *cost) for cost in _COSTS)),
        section("Val top-1 while training, mean and range over seeds", side_by_side([learning_curves(comparison)])),
        section("Accuracy by class on test", side_by_side([class_chart(comparison)])),
        section("Reliability on test", side_by_side([reliability_chart(comparison)])),
        *_similarity(comparison),
        *_pictures(comparison),
        section("The loss and its terms, mean and range over seeds", side_by_side(loss_curves(comparison))),
        section("What differs between the recipes", *_about_recipes(comparison)),
        section("Made with", table(*conditions(comparison))),
    ]
    parts += [section("Notes", sentences(comparison.notes))] if comparison.notes else []
    title = text(_TITLE)
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title><style>{css}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body><main><h1>{title}</h1>\n{"".join(parts)}</main></body></html>\n'


def text(words: str) -> str:
    """Escaped: names of runs, classes and models may come from a stranger's folders."""
    return html.escape(printable(words).replace("\n", " "))


def section(title: str, *content: str) -> str:
    """A section of the page with its heading; content is HTML."""
    return f"<section><h2>{text(title)}</h2>{''.join(content)}</section>\n"


def sentences(lines: Iterable[str]) -> str:
    """The lines as an HTML list, escaped."""
    return f"<ul>{''.join(f'<li>{text(line)}</li>' for line in lines)}</ul>"


def side_by_side(charts: Iterable[str]) -> str:
    """Where the page is wide enough; each stays in one piece on paper."""
    return f'<div class="charts">{"".join(f"<div>{chart}</div>" for chart in charts)}</div>'


def table(heading: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """In a box of its own, which scrolls where the screen is narrow. The first cell of each row names it."""
    head = "".join(f'<th scope="col">{text(cell)}</th>' for cell in heading)
    rows = "".join(f'<tr><th scope="row">{text(name)}</th>{"".join(f"<td>{text(cell)}</td>" for cell in others)}</tr>' for name, *others in cells)
    return f'<div class="table" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _about_recipes(comparison: Comparison) -> list[str]:
    heading, cells = recipe_differences(comparison)
    return [table(heading, cells)] if cells else ["<p>Nothing but the seeds.</p>"]


def _similarity(comparison: Comparison) -> list[str]:
    heading, cells = similarity_cells(comparison)
    return [section("Likeness of teacher and student by layer (linear CKA on val, 1 is equal)", table(heading, cells))] if cells else []


def _pictures(comparison: Comparison) -> list[str]:
    found = differing_pictures(comparison)
    if found is None:
        return []
    figures = "".join(map(_figure, found.pictures))
    words = f"Of {found.run.name}, those of which the student is surest; below each the class, then what both say."
    return [section("Test pictures on which student and teacher differ", f'<p>{text(words)}</p><div class="pictures">{figures}</div>')]


def _figure(picture: Picture) -> str:
    label, student, teacher = map(text, (picture.label, picture.student, picture.teacher))
    said = f"{label}<br>student: {student} ({picture.confidence:.0%})<br>teacher: {teacher}"
    image = f'<img src="{picture.source}" width="{picture.side}" height="{picture.side}" alt="{label}">'
    return f"<figure>{image}<figcaption>{said}</figcaption></figure>"
