"""docs/choosing_a_loss.md: its measured numbers are those of the pages that it names, and what it says of losses is true of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from distill.losses.dist import correlation
from distill.losses.dkd import dkd
from distill.losses.ls_kd import LogitStandardisedKD
from distill.resolve import Catalogue
from distill.structures import Batch, Outputs

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE, LOSSES, RESULTS = ((DOCS / f"{name}.md").read_text(encoding="utf-8") for name in ("choosing_a_loss", "losses", "results"))

FLAT = " ".join(PAGE.split())


def rows(page: str, heading: str) -> dict[str, list[str]]:
    """Loss -> the row's other cells, of the tables between a heading and the next one."""
    below = page.split(f"\n{heading}\n")[1].split("\n## ")[0]
    found = re.findall(r"^\| (?:\[(\w+)\]\(#\w+\)|`(\w+)`|(\w+)) \| (.*?) ?\|$", below, re.MULTILINE)
    table: dict[str, list[str]] = {}
    for *names, cells in found:
        name = "".join(names)
        if name != "loss":
            table.setdefault(name, [cell.strip() for cell in cells.split("|")])  # of a loss that is in two tables the first counts
    return table


def test_measured_differences_are_those_of_both_pages():
    on_cpu, on_gpu = rows(LOSSES, "## Results"), rows(RESULTS, "## The embedded pictures")
    for name, (seeds, difference, *gpu) in rows(PAGE, "## What was measured here").items():
        assert [seeds, difference] == [on_cpu[name][0], on_cpu[name][4]]
        assert gpu == ([on_gpu[name][0], on_gpu[name][2]] if name in on_gpu else ["", ""])


def test_every_loss_with_three_seeds_is_there():
    several = {name for name, cells in rows(LOSSES, "## Results").items() if int(cells[0]) >= 3}
    assert several == set(rows(PAGE, "## What was measured here"))


def test_scaled_weights_have_the_scores_of_the_page():
    results, said = rows(LOSSES, "## Results"), rows(PAGE, "## Few epochs")
    assert len(said) == 4
    for name, (papers, scaled) in said.items():
        assert papers.split()[0] == results[name][2]
        assert re.search(rf"^\| \[{name}\]\(#{name}\) \| `auto\(0.5\)` \| 0 \| [\d.]+ \| {scaled} \| 86.30 \|$", LOSSES, re.MULTILINE)


def test_single_seeds_and_costs_are_those_of_the_page():
    results, costs = rows(LOSSES, "## Results"), rows(LOSSES, "## Cost")
    singles = re.findall(r"`(\w+)` ([+-]\d\.\d\d)", FLAT.split("with one seed each: ")[1].split(" ## ")[0])
    assert len(singles) == 4
    for name, difference in singles:
        assert results[name][4] == f"{difference} (one seed)"
    said = rows(PAGE, "## Memory and time")
    assert said == {name: costs[name] for name in said}


def test_logit_losses_cost_what_the_page_says():
    catalogue = Catalogue()
    logit = [name for name in catalogue.names("losses") if "Kind: logit" in (catalogue.get("losses", name).__doc__ or "") and name != "ce"]
    assert len(logit) == 15
    assert max(float(rows(LOSSES, "## Cost")[name][0].split()[0]) for name in logit) < 1.02


def test_imagenettes_numbers_are_those_of_the_page():
    found = rows(RESULTS, "## Imagenette at 64 px")
    assert f"`kd` had {found['kd'][2]} and `dist` {found['dist'][2]}" in FLAT


@pytest.mark.parametrize("sentence, flag", [("Refused are those that read labels: ", "needs_labels"), ("## Small batches ", "batch_coupled")])
def test_losses_that_are_named_for_a_need_are_those_that_have_it(sentence, flag):
    named = re.match(r"((`\w+`)(, | and )?)+", FLAT.split(sentence)[1]).group()
    catalogue = Catalogue()
    has_it = {name for name in catalogue.names("losses") if getattr(catalogue.get("losses", name), flag)}
    assert set(re.findall(r"\w+(?=`)", named)) == has_it


def test_three_losses_say_nothing_of_the_two_logits_of_a_picture():
    student, labels = torch.tensor([[2.0, -1.0], [1.0, 4.0]]), torch.tensor([0, 1])
    unsure, sure = torch.tensor([[0.5, 0.0], [0.0, 0.5]]), torch.tensor([[9.0, 0.0], [0.0, 9.0]])  # the same classes, otherwise unlike
    loss = LogitStandardisedKD()
    values = [loss(Outputs(student, {}), Outputs(teacher, {}), Batch(None, labels, None, None)) for teacher in (unsure, sure)]
    torch.testing.assert_close(values[0], values[1], atol=1e-4, rtol=0)
    assert correlation(student.softmax(dim=1), sure.softmax(dim=1)) == pytest.approx([1.0, 1.0], abs=1e-3)
    assert correlation(student.softmax(dim=1), unsure.softmax(dim=1)) == pytest.approx([1.0, 1.0], abs=1e-3)
    assert dkd(student, sure, labels, alpha=0.0, beta=1.0, temperature=1.0).item() == pytest.approx(0, abs=1e-6)
