"""python docs/losses_page.py [--check]

Writes docs/losses.md from the losses' docstrings, their recipes, docs/losses_results.jsonl (python -m benchmarks.loss_runs) and
docs/losses_cost.json (python -m benchmarks.losses). With --check it writes nothing, and says whether the page is what would be written.
"""

from __future__ import annotations

import json
import math
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from generated import ROOT, table, write_or_check
from scipy.stats import t as student_t

from distill.loss_cards import LossCard, default_recipe, loss_card, losses_section
from distill.losses_command import KINDS, needs
from distill.recipe_files import load_recipe
from distill.recipe_yaml import recipe_value
from distill.resolve import Catalogue

PAGE, RESULTS, COST = (ROOT / "docs" / name for name in ("losses.md", "losses_results.jsonl", "losses_cost.json"))
RECIPES = ROOT / "recipes" / "losses"
VERDICTS = {
    "better": "better than the student alone (interval above 0)",
    "can't tell": "not to be told apart from the student alone",
    "worse": "worse than the student alone (interval below 0)",
    "too few seeds": "fewer than three seeds, so only a hint",
}
COUNTS = {1: "one seed", 2: "two seeds"}
ENVIRONMENT = ("processor", "num_cores", "device", "precision")
WHICH_TO_TRY = """\
Without a reason for another, begin with [kd](#kd): it needs no layer, no parameters and no tuning but of its weight and temperature. Then look at
what your case rules out:

- **The teacher has other classes than the student**: logits can't be compared. Take a feature or relation loss whose inputs are maps or vectors only.
- **No layer is like another** (other resolutions, other architectures): most logit losses look at no layer; relation losses compare samples with each
  other; most feature losses bring a projector. Each loss's "inputs" below say which widths and sizes it takes.
- **mixup or cutmix**: see the column "labels"; a loss that needs one class a sample says so.
- **Pictures without labels** (`data.labels: none`): losses whose column "labels" says "not used" take them.
- **A teacher cache of the largest logits alone** (`teacher.cache.format: topk`): each loss's "needs" below says whether it asks for all of them.
- **Memory or time is short**: see [Cost](#cost).
- **Small batches**: relation losses see only the pairs within a batch.

Losses of different kinds can be used together, each with its weight. A weight that stands in a paper holds for that paper's networks, data and
reduction: try a third and three times of it too. Choose on val, with three seeds or more, and look at test once."""
RESULTS_TEXT = """\
Each row is what `distill train --recipe losses/NAME` gave, with the weights of that recipe, which says where they come from: {student} learns from
{teacher} on the embedded sample ({split}), {epochs} epochs.
Scores are those of the last epoch. "Alone" is the same student, with the same seed, order and views, without a teacher; the difference, on test, is
the mean over these pairs of runs, with the 95 % interval of a paired t-test where there are three seeds or more. Below that there is no interval, and
the number is only a hint. A short training on small pictures says little about a long one on large ones, and among many losses some look good by
luck: the order of the table is no ranking. The student alone of seed 0 had 86.30,
trained on two cores; the same recipe on one core, as all other runs here, had 84.50: differences of one seed are within that."""
WEIGHT_TEXT = """\
Other weights, one run each, picked after the table above was seen. A term whose gradient is many times cross-entropy's is too much for this
learning rate and for so few epochs, whatever its paper says of others; `train.log_gradients_every` shows it. `auto(R)` scales a term once, to R times
the norm of cross-entropy's gradient."""
COST_TEXT = """\
Time of a whole training step and peak memory, as a ratio to the same step with cross-entropy alone, the teacher running in both
(`python -m benchmarks.losses`). In brackets the 95 % interval."""


class Score(NamedTuple):
    """What the seeds of one loss gave, in percent and points; low and high are None below three seeds."""

    name: str
    num_seeds: int
    val: float
    distilled: float
    alone: float
    difference: float
    low: float | None
    high: float | None

    @property
    def verdict(self) -> str:
        if self.low is None or self.high is None:
            return "too few seeds"
        return "better" if self.low > 0 else "worse" if self.high < 0 else "can't tell"


def page(results: str, cost: str) -> str:
    """The whole page, from the texts of the two files of measurements, either of which may be empty."""
    catalogue = Catalogue()
    cards = [loss_card(name, catalogue.get("losses", name)) for name in catalogue.names("losses")]
    rows = read_results(results, {card.name for card in cards})
    papers, others = [row for row in rows if "weight" not in row], [row for row in rows if "weight" in row]
    scores, costs = summarise(papers), json.loads(cost) if cost else None
    sections = [
        _introduction(cards),
        f"## Which to try first\n\n{WHICH_TO_TRY}\n\n{_measured_in_words(scores)}",
        "## All losses",
        *(_kind_table(title, chosen) for kind, title in KINDS.items() if (chosen := [card for card in cards if card.kind == kind])),
        f"## Results\n\n{_results(scores, papers)}",
        *([f"{WEIGHT_TEXT}\n\n{_other_weights(others)}"] if others else []),
        f"## Cost\n\n{_costs(costs)}",
        "## Each loss",
        *map(_loss_section, cards),
    ]
    return "\n\n".join(sections) + "\n"


def read_results(text: str, names: set[str]) -> list[dict[str, Any]]:
    """The rows of the results. Raises ValueError, with the line, for a loss that does not exist and a seed that is there twice."""
    rows, seen = [], {}
    for number, line in enumerate(text.splitlines(), start=1):
        row = json.loads(line)
        key = row["loss"], row["seed"], row.get("weight")
        if row["loss"] not in names:
            raise ValueError(f"{RESULTS.name}:{number}: there is no loss {row['loss']!r}")
        if key in seen:
            raise ValueError(f"{RESULTS.name}:{number}: {row['loss']} with seed {row['seed']} is in line {seen[key]} already; remove one")
        seen[key] = number
        rows.append(row)
    return rows


def summarise(rows: Iterable[dict[str, Any]]) -> list[Score]:
    """A score for each loss that has a finished run, the largest difference first."""
    finished: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if "error" not in row:
            finished.setdefault(row["loss"], []).append(row)
    scores = [_score(name, found) for name, found in finished.items()]
    return sorted(scores, key=lambda score: (-round(score.difference, 6), score.name))


def _score(name: str, rows: Sequence[dict[str, Any]]) -> Score:
    num = len(rows)
    keys = ("val_top1_distilled", "test_top1_distilled", "test_top1_alone")
    val, distilled, alone = (100 * math.fsum(row[key] for row in rows) / num for key in keys)
    difference, low, high = distilled - alone, None, None
    if num >= 3:
        differences = (100 * (row["test_top1_distilled"] - row["test_top1_alone"]) for row in rows)
        variance = math.fsum((each - difference) ** 2 for each in differences) / (num - 1)
        half_width = float(student_t.ppf(0.975, num - 1)) * math.sqrt(variance / num)
        low, high = difference - half_width, difference + half_width
    return Score(name, num, val, distilled, alone, difference, low, high)


def _introduction(cards: Sequence[LossCard]) -> str:
    return f"""\
# Losses

<!-- Written by `python docs/losses_page.py`: change a loss's docstring, its recipe or the measurements, not this page. -->

{len(cards)} losses, each one file in `distill/losses/`. `distill losses list` and `distill losses show NAME` say on the command line what stands
here; `distill train --recipe losses/NAME` trains with one on the embedded pictures; `distill losses new NAME` writes one of your own, with its test.
In equations s and t are the logits of student and teacher, F_s and F_t their features, T a temperature, N the batch, K the classes."""


def _measured_in_words(scores: Sequence[Score]) -> str:
    """A paragraph of which no word is written by hand, marked as such."""
    findings = "\n".join(_findings(scores)) or "- nothing yet"
    heading = "**What was measured here**, in points of test top-1 (see [Results](#results)):"
    return f"<!-- from losses_results.jsonl -->\n\n{heading}\n\n{findings}\n\n<!-- end -->"


def _findings(scores: Sequence[Score]) -> Iterator[str]:
    for verdict, words in VERDICTS.items():
        if chosen := [score for score in scores if score.verdict == verdict]:
            yield f"- {words}: {', '.join(f'{_link(score.name)} {score.difference:+.2f}' for score in chosen)}"


def _kind_table(title: str, cards: Sequence[LossCard]) -> str:
    heading, _, words = title.partition(": ")
    rows = [(_link(card.name), *map(_escaped, (card.summary, card.paper, card.weights, card.labels, card.cost))) for card in cards]
    return f"### {heading}\n\n{words.capitalize()}.\n\n{table(('loss', 'idea', 'paper', 'usual weights', 'labels', 'cost'), rows)}"


def _results(scores: Sequence[Score], rows: Sequence[dict[str, Any]]) -> str:
    recipe = load_recipe(RECIPES / "kd.yaml")
    split = "7,000 / 1,000 / 2,000 pictures of Fashion-MNIST's test part for train / val / test, 28 px"
    words = RESULTS_TEXT.format(
        student=_network(recipe.student.model), teacher=_network(recipe.teacher.model), split=split, epochs=recipe.train.epochs
    )
    if not rows:
        return f"{words}\n\nNothing has been measured yet."
    finished = [row for row in rows if "error" not in row]
    teachers = sorted({f"{row['test_top1_teacher']:.2%}" for row in finished if "test_top1_teacher" in row})
    places = sorted({f"{row['hardware']}, torch {row['torch']}" for row in finished})
    failed = [f"{_link(row['loss'])}, seed {row['seed']}: {_escaped(row['error'])}" for row in rows if "error" in row]
    facts = [
        f"The teacher has {' and '.join(teachers)} on test." if teachers else "The teacher's own score is not in the results.",
        f"Measured on {'; '.join(map(_escaped, places))}." if places else "",
    ]
    scored = table(("loss", "seeds", "val, distilled", "test, distilled", "test, alone", "difference, points", ""), map(_result_row, scores))
    parts = [words, " ".join(filter(None, facts)), scored if scores else "", "Failed: " + "; ".join(failed) + "." if failed else ""]
    return "\n\n".join(filter(None, parts))


def _other_weights(rows: Sequence[dict[str, Any]]) -> str:
    keys = ("val_top1_distilled", "test_top1_distilled", "test_top1_alone")
    cells = [
        (_link(row["loss"]), _code(row["weight"]), str(row["seed"]), *(f"{100 * row[key]:.2f}" for key in keys))
        for row in sorted(rows, key=lambda row: (row["loss"], row["seed"]))
        if "error" not in row
    ]
    return table(("loss", "weight", "seed", "val, distilled", "test, distilled", "test, alone"), cells)


def _result_row(score: Score) -> tuple[str, ...]:
    interval = COUNTS.get(score.num_seeds) or f"{score.low:+.2f} to {score.high:+.2f}"
    accuracies = (f"{value:.2f}" for value in (score.val, score.distilled, score.alone))
    verdict = "" if score.low is None else score.verdict
    return _link(score.name), str(score.num_seeds), *accuracies, f"{score.difference:+.2f} ({interval})", verdict


def _network(model: str) -> str:
    return re.sub(r"resnet(\d+)", r"a ResNet-\1", model)


def _costs(cost: dict[str, Any] | None) -> str:
    if not cost:
        return f"{COST_TEXT}\n\nNothing has been measured yet."
    setting, environment = cost.get("setting", {}), cost["environment"]
    facts = {name.replace("_", " "): setting[name] for name in ("image_size", "batch_size", "num_classes") if name in setting}
    facts |= {name.replace("num_", ""): environment[name] for name in ENVIRONMENT if name in environment}
    facts |= {"torch": environment["versions"]["torch"]} if "versions" in environment else {}
    where = _escaped(", ".join(f"{name} {value}" for name, value in facts.items()))
    rows = [
        (_link(name), f"{row['time_ratio']:.3f} ({row['low']:.3f} to {row['high']:.3f})", f"{row['memory_ratio']:.3f}")
        for name, row in sorted(cost["losses"].items(), key=lambda item: (item[1]["time_ratio"], item[0]))
    ]
    return f"{COST_TEXT}\n\nMeasured with: {where}.\n\n{table(('loss', 'time', 'memory'), rows)}"


def _loss_section(card: LossCard) -> str:
    path = RECIPES / f"{card.name}.yaml"
    recipe = losses_section(path.read_text(encoding="utf-8")) if path.is_file() else ""
    title = f"[`recipes/losses/{path.name}`](../recipes/losses/{path.name}):" if recipe else "In a recipe, with its defaults:"
    rows = [
        (f"`{argument.name}`", _code(argument.type), "must be given" if argument.is_required else _code(recipe_value(argument.default)))
        for argument in card.arguments
    ]
    parts = [
        f"### {card.name}",
        _escaped(card.summary),
        "\n".join(["```text", *textwrap.wrap(card.equation, 110, break_long_words=False, break_on_hyphens=False), "```"]) if card.equation else "",
        "\n".join(f"- {label}: {_escaped(text)}" for label, text in _facts(card) if text),
        table(("argument", "type", "default"), rows) if rows else "No arguments.",
        _escaped(card.notes),
        f"{title}\n\n```yaml\n{recipe or default_recipe(card)}\n```",
    ]
    return "\n\n".join(filter(None, parts))


def _facts(card: LossCard) -> list[tuple[str, str]]:
    facts = [(label, getattr(card, label.lower())) for label in ("Kind", "Inputs", "Paper", "Weights", "Labels", "Cost")]
    return [*facts, ("Needs", "; ".join(needs(card)))]


def _link(name: str) -> str:
    return f"[{name}](#{name})"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _escaped(text: str) -> str:
    """As Markdown that shows the same characters; what stands between backticks is left alone."""
    parts = re.split(r"(`[^`]*`)", text)
    special = r"[*<\\]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])"  # inside a word, _ means itself
    return "".join(part if number % 2 else re.sub(special, r"\\\g<0>", part) for number, part in enumerate(parts))


def main(options: Sequence[str]) -> int:
    measured = (path.read_text(encoding="utf-8") if path.is_file() else "" for path in (RESULTS, COST))
    return write_or_check(options, __doc__, {PAGE: page(*measured)})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
