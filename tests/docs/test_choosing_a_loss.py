"""docs/choosing_a_loss.md: its measured numbers are those of the pages that it names, and what it says of losses is true of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from distill.losses.dist import correlation
from distill.losses.dkd import dkd
from distill.losses.ls_kd import LSKD
from distill.resolve import Catalogue
from distill.structures import Batch, Outputs

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE, LOSSES, RESULTS = ((DOCS / f"{name}.md").read_text(encoding="utf-8") for name in ("choosing_a_loss", "losses", "results"))


def rows(page: str, heading: str) -> dict[str, list[str]]:
    """Rows by their first cell, of the tables between a heading and the next one of its level."""
    level = heading.split()[0]
    below = page.split(f"\n{heading}\n")[1].split(f"\n{level} ")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in below.splitlines() if line.startswith("|")]
    return {re.sub(r"^\[(\w+)\].*|^`(\w+)`$", r"\1\2", first): others for first, *others in cells}


def test_measured_differences_are_those_of_both_pages():
    on_cpu, on_gpu = rows(LOSSES, "## Results"), rows(RESULTS, "## The embedded pictures".replace("##", "##"))
    gpu = {name: re.search(rf"^\| {name} \| (\d) \| [^|]+ \| ([^|]+) \|", RESULTS, re.MULTILINE) for name in on_gpu}
    said = {name: cells for name, cells in rows(PAGE, "## What was measured here").items() if name in on_cpu and name != "loss"}
    assert len(said) == 8
    for name, (seeds, difference, gpu_seeds, gpu_difference) in said.items():
        assert [seeds, difference] == [on_cpu[name][0], on_cpu[name][4]]
        assert [gpu_seeds, gpu_difference] == (list(gpu[name].groups()) if gpu.get(name) else ["", ""])


def test_every_loss_with_three_seeds_is_there():
    several = {name for name, cells in rows(LOSSES, "## Results").items() if cells[0].isdigit() and int(cells[0]) >= 3}
    assert several == {name for name in rows(PAGE, "## What was measured here") if name not in ("loss", "---")}


def test_scaled_weights_have_the_scores_of_the_page():
    for name, (papers, scaled) in rows(PAGE, "## Few epochs").items():
        if name in ("loss", "---"):
            continue
        assert papers.split()[0] == rows(LOSSES, "## Results".replace("##", "##"))[name][2] or papers.split()[0] in LOSSES
        assert re.search(rf"^\| \[{name}\]\(#{name}\) \| `auto\(0.5\)` \| 0 \| [\d.]+ \| {scaled} \| 86.30 \|", LOSSES, re.MULTILINE)


def test_single_seeds_and_costs_are_those_of_the_page():
    results, costs = rows(LOSSES, "## Results"), rows(LOSSES, "## Cost")
    for name, difference in re.findall(r"`(\w+)` ([+-]\d\.\d\d)(?=,|\.)", PAGE.split("one seed each: ")[1].split("\n")[0]):
        assert results[name][4] == f"{difference} (one seed)"
    table = rows(PAGE, "## Memory and time")
    assert {name: costs[name] for name in table if name in costs and name != "loss"} == {name: table[name] for name in table if name not in ("loss", "---")}


def test_imagenettes_numbers_are_those_of_the_page():
    for name, difference in (("kd", "+1.11 ± 1.89"), ("dist", "+0.74 ± 2.99")):
        assert f"`{name}` {'had ' if name == 'kd' else ''}{difference}" in PAGE.replace("\n", " ")
        assert re.search(rf"^\| {name} \| 3 \| [^|]+ \| {re.escape(difference)} \|", RESULTS, re.MULTILINE)


@pytest.mark.parametrize("sentence, flag", [("Refused are those that read labels: ", "needs_labels"), ("## Small batches\n", "batch_coupled")])
def test_losses_that_are_named_for_a_need_are_those_that_have_it(sentence, flag):
    named = re.match(r"((`\w+`)(, | and )?)+", PAGE.split(sentence)[1]).group()
    catalogue = Catalogue()
    has_it = {name for name in catalogue.names("losses") if getattr(catalogue.get("losses", name), flag)}
    assert set(re.findall(r"\w+(?=`)", named)) == has_it


def test_three_losses_say_nothing_of_the_two_logits_of_a_picture():
    student, labels = torch.tensor([[2.0, -1.0], [1.0, 4.0]]), torch.tensor([0, 1])
    unsure, sure = torch.tensor([[0.5, 0.0], [0.0, 0.5]]), torch.tensor([[9.0, 0.0], [0.0, 9.0]])  # the same classes, otherwise unlike
    loss = LSKD()
    values = [loss(Outputs(student, {}), Outputs(teacher, {}), Batch(None, labels, None, None)) for teacher in (unsure, sure)]
    torch.testing.assert_close(values[0], values[1], atol=1e-4, rtol=0)
    assert correlation(student.softmax(dim=1), sure.softmax(dim=1)) == pytest.approx([1.0, 1.0], abs=1e-3)
    assert correlation(student.softmax(dim=1), unsure.softmax(dim=1)) == pytest.approx([1.0, 1.0], abs=1e-3)
    assert dkd(student, sure, labels, alpha=0.0, beta=1.0, temperature=1.0).item() == pytest.approx(0, abs=1e-6)
