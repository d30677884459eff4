"""Recipes with published figures: each says in fixed lines where its figures are from, and is what its name says. The page of them is up to date."""

from __future__ import annotations

import re
from pathlib import Path

import papers_page
import pytest

from distill.recipe_comments import FACTS, top_comment
from distill.recipe_files import load_recipe
from distill.recipe_yaml import parse, plain_values

ROOT = Path(__file__).resolve().parent.parent
COMMAND = ["accelerate", "launch", "distill/run.py", "--recipe"]
FOLDERS = ("imagenet", "cifar100", "imagenette")
FILES = {f"{folder}/{path.stem}": path for folder in FOLDERS for path in sorted((ROOT / "recipes" / folder).glob("*.yaml"))}
NETWORKS = {"r18": "resnet18", "r34": "resnet34", "r50": "resnet50", "r101": "resnet101"}
LOSSES = ("kd", "dkd", "dist", "ls_kd", "reviewkd", "crd", "wkd_f")
SETTINGS = ("patient", "88ep")  # that have another schedule, and plain kd
NAME = re.compile(r"(?P<folder>\w+)/(?P<teacher>[a-z0-9]+)_to_(?P<student>[a-z0-9]+?)(?:_(?P<rest>\w+))?")
PAIRS = {"imagenet": {"r34_to_r18", "r50_to_r18", "r101_to_r18", "r50_to_r34", "r101_to_r34"}, "imagenette": {"r50_to_r18"}}
PAIRS["cifar100"] = {"resnet56_to_resnet20", "resnet110_to_resnet20", "resnet110_to_resnet32", "resnet32x4_to_resnet8x4"}
VARIANTS = {name: NAME.fullmatch(name) for name in FILES if not name.endswith("_alone")}


def written(name: str) -> dict:
    """What the file itself says, without what it extends."""
    node, problems = parse(FILES[name].read_text(encoding="utf-8"), str)
    assert not problems
    return plain_values(node)


def test_promised_recipes_are_there():
    pairs = {f"{folder}/{pair}" for folder, some in PAIRS.items() for pair in some}
    assert pairs <= FILES.keys()
    assert {f"imagenet/{pair}_{loss}" for pair in PAIRS["imagenet"] for loss in ("dkd", "dist", "ls_kd", "reviewkd", "wkd_f")} <= FILES.keys()
    assert {f"cifar100/{pair}_{loss}" for pair in PAIRS["cifar100"] for loss in ("dkd", "dist", "ls_kd", "crd")} <= FILES.keys()
    # no paper has a figure of knowledge review for the pair that is left out
    assert {name for name in FILES if name.startswith("cifar100/") and name.endswith("reviewkd")} == {
        f"cifar100/{pair}_reviewkd" for pair in PAIRS["cifar100"] - {"resnet110_to_resnet20"}
    }


@pytest.mark.parametrize("name", FILES)
def test_recipe_says_where_its_figures_are_from(name):
    text = FILES[name].read_text(encoding="utf-8")
    found = top_comment(text)
    assert tuple(found.facts) == FACTS, "Paper, Reproduced, Epoch, Time and Measured, in this order"
    assert found.command.split()[:5] == [*COMMAND, name]
    assert all(word.startswith("data.root=") for word in found.command.split()[5:])
    assert found.facts["Epoch"] in ("last", "best", "not said")
    assert re.match(r"\d\d\.\d+ |none\b", found.facts["Paper"])
    if found.facts["Paper"][0].isdigit():
        assert re.search(r"\d{4}, arXiv \d{4}\.\d{5}", found.facts["Paper"])
    else:
        assert found.facts["Epoch"] == "not said", "there is no figure that it could be of"
    assert found.facts["Reproduced"].startswith("by nobody that we know of") or re.match(r"\d\d\.\d\d ", found.facts["Reproduced"])
    assert found.facts["Measured"] == "not measured here" or "docs/results.md" in found.facts["Measured"]


@pytest.mark.parametrize("name", VARIANTS)
def test_recipe_is_what_its_name_says(name):
    match, recipe, own = VARIANTS[name], load_recipe(FILES[name]), written(name)
    teacher, student = (NETWORKS.get(match[role], match[role]) for role in ("teacher", "student"))
    assert (recipe.teacher.model, recipe.student.model, recipe.control) == (teacher, student, True)
    pair = f"{match['folder']}/{match['teacher']}_to_{match['student']}"
    loss = "kd" if match["rest"] in (None, *SETTINGS) else match["rest"]
    assert loss in LOSSES
    assert {entry.name(label) for label, entry in recipe.losses.items()} - {"ce"} == {loss}
    if match["rest"] is not None:
        assert own["extends"] == pair
    if match["rest"] in LOSSES:
        assert own.keys() == {"extends", "description", "losses"}, "a variant changes nothing but the losses"


@pytest.mark.parametrize("folder", PAIRS)
def test_losses_of_one_name_differ_in_numbers_only(folder):
    # so that it is enough to run them on one pair (test_recipes.py)
    seen: dict[tuple[str, str], set] = {}
    for name, match in VARIANTS.items():
        if match["folder"] == folder:
            for label, entry in load_recipe(FILES[name]).losses.items():
                arguments = {key: value for key, value in (entry.model_extra or {}).items() if not isinstance(value, int | float)}
                seen.setdefault((match["rest"], label), set()).add(repr((sorted(entry.model_extra or {}), arguments, type(entry.weight).__name__)))
    assert {key: kinds for key, kinds in seen.items() if len(kinds) > 1} == {}


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith("_alone")])
def test_network_alone_is_what_its_name_says(name):
    recipe, network = load_recipe(FILES[name]), name.partition("/")[2].removesuffix("_alone")
    assert recipe.teacher is None
    assert (recipe.student.model, set(recipe.losses)) == (NETWORKS.get(network, network), {"ce"})


@pytest.mark.parametrize("pair", sorted(PAIRS["cifar100"]))
def test_cifar_pair_trains_student_and_teacher_by_recipes_of_one_schedule(pair):
    teacher, student = pair.split("_to_")
    recipe = load_recipe(FILES[f"cifar100/{pair}"])
    assert (recipe.teacher.weights, recipe.teacher.recipe) == ("train", f"cifar100/{teacher}_alone")
    for other in (f"cifar100/{teacher}_alone", f"cifar100/{student}_alone"):
        assert (load_recipe(FILES[other]).train, load_recipe(FILES[other]).data) == (recipe.train, recipe.data)


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("cifar100/")])
def test_cifar_learning_rate_falls_after_150_180_and_210_of_240_epochs(name):
    train = load_recipe(FILES[name]).train
    assert (train.epochs, train.schedule, train.lr, train.gamma, train.warmup_epochs) == (240, "step", 0.05, 0.1, 0)
    assert [share * train.epochs for share in train.milestones] == [150, 180, 210]


@pytest.mark.parametrize("pair", sorted(PAIRS["imagenet"]))
def test_imagenet_learning_rate_falls_after_30_60_and_90_of_100_epochs(pair):
    train = load_recipe(FILES[f"imagenet/{pair}"]).train
    assert (train.epochs, train.schedule, train.lr) == (100, "step", 0.1)
    assert [round(share * train.epochs) for share in train.milestones] == [30, 60, 90]


def test_cifar_losses_name_only_layers_that_these_networks_have():
    for name in FILES:
        if name.startswith("cifar100/"):
            for label, entry in load_recipe(FILES[name]).losses.items():
                layers = (entry.model_extra or {}).get("layers", [])
                assert set(layers) <= {"layer1.pre", "layer2.pre", "layer3.pre", "layer3", "pooled"}
                assert layers or entry.name(label) not in ("reviewkd", "wkd_f"), "their default has layer4"


def test_page_is_what_is_written_now():
    assert papers_page.PAGE.read_text(encoding="utf-8") == papers_page.page(), "run python docs/papers_page.py"


def test_page_has_a_row_for_each_recipe_whose_links_lead_there():
    rows = re.findall(r"^\| \[(\S+)\]\(\.\./(\S+)\) \|(.*)\|$", papers_page.page(), re.MULTILINE)
    assert {name for name, _, _ in rows} == FILES.keys()
    assert all((ROOT / path).is_file() and Path(path).with_suffix("") == Path("recipes") / name for name, path, _ in rows)
    assert {len(re.findall(r"(?<!\\)\|", cells)) for _, _, cells in rows} == {4}


def test_check_says_whether_the_page_is_true_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(papers_page, "PAGE", tmp_path / "papers.md")
    assert papers_page.main(["--check"]) == 1
    assert "run python docs/papers_page.py" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    assert papers_page.main([]) == 0
    assert papers_page.main(["--check"]) == 0
