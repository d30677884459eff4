"""docs/losses.md is what its sources say, and says of measurements what they show and no more; every shipped loss has a card and a recipe."""

from __future__ import annotations

import json
import re
from pathlib import Path

import losses_page
import pytest

from distill.loss_cards import LABELS, loss_card
from distill.recipe_files import load_recipe
from distill.resolve import Catalogue

ROOT = Path(__file__).resolve().parent.parent

NAMES = Catalogue().names("losses")
CARDS = {name: loss_card(name, Catalogue().get("losses", name)) for name in NAMES}
PLACE = {"torch": "2.14.1", "hardware": "a CPU, 2 cores, bf16", "test_top1_teacher": 0.874, "seconds": 101.0}
COST = {
    "losses": {
        "kd": {"time_ratio": 1.01, "low": 1.0, "high": 1.02, "memory_ratio": 1.0},
        "at": {"time_ratio": 1.005, "low": 0.99, "high": 1.02, "memory_ratio": 1.125},
    },
    "setting": {"image_size": 64, "batch_size": 32},
    "environment": {"processor": "a CPU", "num_cores": 2, "precision": "bf16", "versions": {"torch": "2.14.1"}, "command": "secret"},
}


def row(loss: str, seed: int, distilled: float, alone: float, val: float = 0.86) -> dict:
    return {"loss": loss, "seed": seed, "test_top1_distilled": distilled, "test_top1_alone": alone, "val_top1_distilled": val} | PLACE


def lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


# Differences of 1.0, 1.2 and 1.4 points: mean 1.2, standard deviation 0.2; t of 2 degrees of freedom is 4.3027, so 0.2 / sqrt(3) * 4.3027 = 0.4968
BETTER = [row("kd", 0, 0.870, 0.860), row("kd", 1, 0.871, 0.859), row("kd", 2, 0.872, 0.858)]
WORSE = [row("at", 0, 0.850, 0.860), row("at", 1, 0.848, 0.860), row("at", 2, 0.846, 0.860)]
UNSURE = [row("fitnet", 0, 0.850, 0.860), row("fitnet", 1, 0.870, 0.860), row("fitnet", 2, 0.861, 0.860)]
FEW = [row("ce", 0, 0.88, 0.85)]


def section(page: str, title: str) -> str:
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)[1]


@pytest.fixture(scope="module")
def page() -> str:
    return losses_page.page(lines(BETTER + WORSE + UNSURE + FEW), json.dumps(COST))


def test_page_is_what_is_written_now():
    measured = [path.read_text(encoding="utf-8") if path.is_file() else "" for path in (losses_page.RESULTS, losses_page.COST)]
    written = losses_page.PAGE.read_text(encoding="utf-8") if losses_page.PAGE.is_file() else ""
    assert written == losses_page.page(*measured), "docs/losses.md is not what its sources say: run python docs/losses_page.py"


@pytest.mark.parametrize("name", NAMES)
def test_the_column_labels_agrees_with_what_the_loss_says(name):
    assert (CARDS[name].labels == "not used") is not CARDS[name].needs_labels


def test_check_says_whether_the_page_is_true_and_writes_nothing(tmp_path, monkeypatch, capsys):
    for name in ("PAGE", "RESULTS", "COST"):
        monkeypatch.setattr(losses_page, name, tmp_path / name)
    assert losses_page.main(["--check"]) == 1
    assert "run python docs/losses_page.py" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    assert losses_page.main([]) == 0
    assert losses_page.main(["--check"]) == 0
    (tmp_path / "RESULTS").write_text(lines(BETTER), encoding="utf-8")
    assert losses_page.main(["--check"]) == 1


def test_page_does_not_depend_on_where_it_is_made(tmp_path):
    # the tests' working folder is not the checkout; recipes in it must not get onto the page
    Path("recipes/losses").mkdir(parents=True)
    before = losses_page.page("", "")
    Path("recipes/losses/kd.yaml").write_text("losses:\n  kd: {weight: 77}\n", encoding="utf-8")
    Path("recipes/r50_to_r18.yaml").write_text("no: recipe\n", encoding="utf-8")
    assert losses_page.page("", "") == before


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_loss_says_all_of_itself(name):
    card = CARDS[name]
    assert card.kind in ("logit", "feature", "relation")
    assert card.summary
    assert not [label for label in LABELS if not getattr(card, label.lower())]
    assert all(argument.type for argument in card.arguments)
    assert not [argument.name for argument in card.arguments if argument.is_required]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "ce"])
def test_every_shipped_loss_has_a_recipe_that_uses_it(name):
    recipe = load_recipe(ROOT / "recipes" / "losses" / f"{name}.yaml")
    assert name in {entry.name(label) for label, entry in recipe.losses.items()}
    assert recipe.control
    assert (recipe.train.epochs, recipe.data.source) == (4, "sample")  # as the page says


def test_every_recipe_of_a_loss_is_called_after_one():
    assert {path.stem for path in (ROOT / "recipes" / "losses").glob("*.yaml")} <= set(NAMES)


def test_page_has_a_section_for_each_loss_and_links_lead_there(page):
    titles = re.findall(r"^### (.*)$", section(page, "Each loss"), re.MULTILINE)
    assert titles == NAMES
    anchors = {title.lower().replace(" ", "-") for title in re.findall(r"^#+ (.*)$", page, re.MULTILINE)}
    assert set(re.findall(r"\]\(#(.*?)\)", page)) <= anchors
    assert {name for name in NAMES if f"| [{name}](#{name}) |" in section(page, "All losses")} == set(NAMES)
    for path in re.findall(r"\]\(\.\./(.*?)\)", page):
        assert (ROOT / path).is_file()


def test_tables_have_as_many_cells_in_each_row_as_in_the_heading(page):
    for table in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_results_have_means_of_the_same_seeds_and_a_paired_interval(page):
    text = section(page, "Results")
    assert "| [kd](#kd) | 3 | 86.00 | 87.10 | 85.90 | +1.20 (+0.70 to +1.70) | better |" in text
    assert "| [at](#at) | 3 | 86.00 | 84.80 | 86.00 | -1.20 (-1.70 to -0.70) | worse |" in text
    assert re.search(r"\| \[fitnet\].* \| \+0\.03 \(-2\.\d\d to \+2\.\d\d\) \| can't tell \|", text)
    assert "| [ce](#ce) | 1 | 86.00 | 88.00 | 85.00 | +3.00 (one seed) |  |" in text


def test_results_are_sorted_by_the_difference_losing_ones_included(page):
    assert re.findall(r"^\| \[(\w+)\]", section(page, "Results"), re.MULTILINE) == ["ce", "kd", "fitnet", "at"]


def test_runs_with_another_weight_stand_in_a_table_of_their_own():
    row = {"loss": "kd", "seed": 0, "val_top1_distilled": 0.8, "test_top1_distilled": 0.81, "test_top1_alone": 0.82, "seconds": 1.0}
    row |= {"torch": "2.14.1", "hardware": "a CPU"}
    text = section(losses_page.page("\n".join(map(json.dumps, [row, row | {"weight": "auto(0.5)", "test_top1_distilled": 0.9}])), ""), "Results")
    first, _, second = text.partition("Other weights")
    assert "| [kd](#kd) | 1 | 80.00 | 81.00 | 82.00 | -1.00 (one seed) |  |" in first
    assert "auto(0.5)" not in first
    assert "| [kd](#kd) | `auto(0.5)` | 0 | 80.00 | 90.00 | 82.00 |" in second


def test_results_say_what_they_are_results_of(page):
    text = section(page, "Results")
    for part in ("4 epochs", "7,000 / 1,000 / 2,000", "on test", "87.40%", "a CPU, 2 cores, bf16, torch 2.14.1", "last epoch", "ResNet-50"):
        assert part in text


def test_two_seeds_have_no_interval():
    text = section(losses_page.page(lines(BETTER[:2]), ""), "Results")
    assert "| +1.10 (two seeds) |  |" in text


def test_seeds_that_all_gained_the_same_have_an_interval_of_no_width():
    text = section(losses_page.page(lines([row("kd", seed, 0.875, 0.865) for seed in range(3)]), ""), "Results")
    assert "+1.00 (+1.00 to +1.00)" in text


def test_what_to_try_first_speaks_of_accuracy_only_where_that_was_measured(page):
    guide = section(page, "Which to try first")
    by_hand, _, measured = guide.partition("<!-- from losses_results.jsonl -->")
    assert "better than the student alone (interval above 0): [kd](#kd) +1.20\n" in measured
    assert "worse than the student alone (interval below 0): [at](#at) -1.20\n" in measured
    assert "not to be told apart from the student alone: [fitnet](#fitnet) +0.03\n" in measured
    assert "fewer than three seeds, so only a hint: [ce](#ce) +3.00\n" in measured
    assert "nothing yet" in section(losses_page.page("", ""), "Which to try first")
    assert not re.search(r"better|best|points|accura|top-1", by_hand)


def test_runs_that_failed_are_named():
    text = section(losses_page.page(lines([*BETTER, {"loss": "at", "seed": 4, "error": "losses.at: not finite"}]), ""), "Results")
    assert "Failed: [at](#at), seed 4: losses.at: not finite." in text


def test_results_from_several_machines_name_them_all():
    rows = [BETTER[0], BETTER[1] | {"hardware": "a GPU"}]
    assert "a CPU, 2 cores, bf16, torch 2.14.1; a GPU, torch 2.14.1" in losses_page.page(lines(rows), "")


@pytest.mark.parametrize("wrong, message", [(BETTER[0], "kd with seed 0 is in line 1 already"), (row("gone", 0, 1, 1), "there is no loss 'gone'")])
def test_results_that_can_not_be_meant_are_refused(wrong, message):
    with pytest.raises(ValueError, match=f"losses_results.jsonl:2: {message}"):
        losses_page.page(lines([BETTER[0], wrong]), "")


def test_costs_are_sorted_and_say_where_they_were_measured(page):
    text = section(page, "Cost")
    assert text.index("| [at](#at) | 1.005 (0.990 to 1.020) | 1.125 |") < text.index("| [kd](#kd) | 1.010 (1.000 to 1.020) | 1.000 |")
    assert "image size 64, batch size 32, processor a CPU, cores 2, precision bf16, torch 2.14.1." in text
    assert "secret" not in text


def test_without_measurements_the_page_says_so():
    empty = losses_page.page("", "")
    assert all("Nothing has been measured yet." in section(empty, title) for title in ("Results", "Cost"))


@pytest.mark.parametrize(
    "text, shown",
    [("a * b", r"a \* b"), ("log p_k", "log p_k"), ("|a|_2", r"|a|\_2"), ("a < b", r"a \< b"), ("`a * b` * c", r"`a * b` \* c"), (r"a\b", r"a\\b")],
)
def test_markdown_shows_the_characters_that_were_written(text, shown):
    assert losses_page._escaped(text) == shown
