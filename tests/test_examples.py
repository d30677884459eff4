"""What docs/examples say is run, on tiny settings; and what is public is documented and costs nothing to import."""

from __future__ import annotations

import inspect
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision.models import resnet50

import distill as package
from distill.job import train
from distill.recipe_files import load_recipe
from distill.report.runs import Run

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "docs" / "examples"
TINY = ["student.model=timm/test_resnet", "teacher.model=timm/test_resnet", "teacher.weights=random", "teacher.check=false", "control=false"]
TINY += ["data.global_batch_size=8", "train.epochs=1", "train.warmup_epochs=0", "train.max_steps=2", "train.precision=fp32", "data.source=synthetic"]
TINY += ["data.image_size=28", "data.arguments={num_classes: 10, num_train: 20, num_val: 10, num_test: 10}"]


def run_example(name: str, monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


# What the command line does


def test_three_lines_are_a_run(monkeypatch, capsys):
    run_example("three_lines.py", monkeypatch, "r50_to_r18", *TINY)
    assert "runs/r50_to_r18-seed0: test top-1 " in capsys.readouterr().out
    assert json.loads(Path("runs/r50_to_r18-seed0/status.json").read_text())["state"] == "finished"


def test_recipe_by_name_and_loaded_recipe_are_the_same_run_under_the_same_name(distill):
    runs = [train("r50_to_r18", TINY), train(load_recipe("r50_to_r18", TINY[:-1]), TINY[-1:])]
    assert [run.path.name for run in runs] == ["r50_to_r18-seed0", "r50_to_r18-seed0-2"]
    assert all(isinstance(run, Run) and run.recipe == runs[0].recipe for run in runs)
    assert distill("train", "--recipe", "r50_to_r18", *TINY)[0] == 0
    students = [load_file(path / "student.safetensors") for path in (*(run.path for run in runs), Path("runs/r50_to_r18-seed0-3"))]
    assert all(torch.equal(student[name], tensor) for student in students for name, tensor in students[0].items())
    assert repr(runs[0]) == f"Run(path={runs[0].path!r})"


def test_loaded_recipe_that_can_not_be_trained_is_refused_with_its_name():
    recipe = load_recipe("r50_to_r18", ["losses.kd.type=kdd"])
    with pytest.raises(package.DistillError, match=r"the recipe r50_to_r18.*losses\.kd.*did you mean 'kd'"):
        train(recipe)
    with pytest.raises(package.DistillError, match=r"train\.epochz"):
        train(recipe, ["train.epochz=1"])


# Loops of one's own


def test_own_loop_trains_with_a_teacher_from_a_file(monkeypatch, capsys):
    save_file(resnet50(num_classes=10).state_dict(), "teacher.safetensors")
    run_example("own_loop.py", monkeypatch, "--steps", "2", "--batch-size", "4", "--test-pictures", "10", "--teacher", "teacher.safetensors")
    out = capsys.readouterr().out
    assert all(f"'{label}': " in out for label in ("ce", "kd", "hint"))
    assert "of 10 pictures" in out


def test_accelerate_loop_leaves_a_plain_student(monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    models = ["--student", "timm/test_resnet", "--teacher", "timm/test_resnet"]
    run_example("accelerate_loop.py", monkeypatch, "--steps", "2", "--batch-size", "4", *models)
    student = package.create_model("timm/test_resnet", num_classes=10)
    student.load_state_dict(load_file("student.safetensors"))
    assert re.search(r"^1 \d", capsys.readouterr().out, re.MULTILINE)


def test_notebook_runs_from_its_first_cell_to_its_last(capsys):
    notebook = json.loads((EXAMPLES / "notebook.ipynb").read_text(encoding="utf-8"))
    scope: dict = {"__name__": "__main__"}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), scope)
        if "parameters" in cell["metadata"].get("tags", []):
            scope |= {"overrides": TINY, "steps": 2}
    assert isinstance(scope["run"], Run)
    assert "pictures right" in capsys.readouterr().out
    assert scope["output"].terms.keys() == {"ce", "angle"}


def test_notebook_is_one_that_jupyter_opens():
    notebook = json.loads((EXAMPLES / "notebook.ipynb").read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert set(notebook) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", cell["id"])
        required = {"cell_type", "id", "metadata", "source"} | ({"outputs", "execution_count"} if cell["cell_type"] == "code" else set())
        assert set(cell) == required
        assert all(isinstance(line, str) for line in cell["source"])
        assert cell.get("outputs", []) == []


def test_examples_are_short_and_all_of_them_are_on_the_page():
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    files = [path.name for path in EXAMPLES.iterdir() if path.is_file()]
    assert set(re.findall(r"\]\(examples/(.*?)\)", page)) == set(files)
    assert not [path.name for path in EXAMPLES.glob("*.py") if len(path.read_text(encoding="utf-8").splitlines()) > 60]


# The page


def test_page_names_what_is_public():
    table = (ROOT / "docs" / "python.md").read_text(encoding="utf-8").split("## What is public")[1]
    named = {name for cell in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)", cell)}
    assert named == set(package.__all__) - {"__version__"}


# What is public


def test_reference_has_every_public_name():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\.\. auto(?:function|class):: distill\.(\w+)$", page, re.MULTILINE))
    assert named | {"DistillError"} == set(package.__all__) - {"__version__"}  # which distill.errors shows with the others
    assert ".. automodule:: distill.errors" in page


@pytest.mark.parametrize("name", [name for name in package.__all__ if name != "__version__"])
def test_everything_public_is_there_and_documented(name):
    thing = getattr(package, name)
    assert inspect.getdoc(thing)
    assert thing.__doc__, "not only what it inherits"
    assert name in dir(package)
    methods = vars(thing).items() if isinstance(thing, type) else ()
    bare = [key for key, value in methods if inspect.isfunction(value) and not key.startswith("_") and not value.__doc__]
    assert not [key for key in bare if not any(getattr(getattr(base, key, None), "__doc__", None) for base in thing.__mro__[1:])]


def test_import_of_the_package_imports_no_library():
    heavy = ["torch", "torchvision", "timm", "accelerate", "numpy", "pydantic", "rich"]
    probe = f"import sys, distill; dir(distill); print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        package.trian  # noqa: B018
