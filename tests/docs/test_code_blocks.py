"""Every fenced block of the documentation is true: Python and commands are run in a folder that has what the page speaks of, recipes are checked.

A block that can't be is marked by `<!-- not run: REASON -->` on the line before its fence. What is done with which command: block_commands.py.
"""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import runs
import yaml
from block_commands import SMALL, NotAsSaidError, check_line, lines
from doc_pages import NAMES, PAGES, ROOT, Block, blocks
from PIL import Image

from distill import cli, job
from distill.engine import timing

RUN = ["--recipe", "r50_to_r18", *SMALL, "student.model=resnet18", "run_name=finished"]
DIVERGED = [*runs.SMALL, "losses.not_finite={weight: 1, sample_id: 7, view: 1}", "run_name=diverged"]
DEFINED = {"bash", "python", "yaml", "toml", "json"}
OTHER = {"", "text", "csv", "{eval-rst}"}  # what is shown, and not to be typed


def make_pictures(folder: Path) -> None:
    """What a reader has at ~/pictures: a folder per class, no two pictures alike."""
    generator = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for index in range(12):
            Image.fromarray(generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(folder / label / f"{index}.png")


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder with a finished run and one whose loss was not finite, for all pages that speak of runs."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTILL_CACHE", str(folder / "cache"))
        patch.setenv("DISTILL_PLUGINS", str(ROOT / "tests" / "odd_losses.py"))
        patch.setattr(timing, "SECONDS", 0.0)
        patch.setattr(timing, "LEAST_CALLS", 1)
        assert cli.main(["train", *RUN, f"runs_dir={folder}"]) == 0
        assert cli.main(["train", *DIVERGED, f"runs_dir={folder}"]) == 4
    return folder


@pytest.fixture
def page_folder(tmp_path, monkeypatch):
    """Where a page's blocks are run: the home folder, and the folder that one is in; training is made small."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DISTILL_PLUGINS", str(ROOT / "tests" / "odd_losses.py"))
    monkeypatch.syspath_prepend(str(tmp_path))
    train = job.train
    monkeypatch.setattr(
        job, "train", lambda recipe, overrides=(), **options: train(recipe, [*overrides, *SMALL, "student.model=resnet18"], **options)
    )
    return tmp_path


def furnish(folder: Path, text: str, trained: Path) -> None:
    """Puts there what a page speaks of as the reader's own."""
    if "picture" in text or "FOLDER" in text:
        make_pictures(folder / "pictures")
        (folder / "FOLDER").symlink_to("pictures")
    if "picture.png" in text:
        shutil.copy(folder / "pictures" / "cat" / "0.png", folder / "picture.png")
    if "runs/" in text:
        shutil.copytree(trained / "finished", folder / "runs" / "r50_to_r18-seed0")
        shutil.copytree(trained / "diverged", folder / "runs" / "NAME")


def check(block: Block, scope: dict, distill) -> list[str]:
    """Does what the block says; returns what is wrong with it."""
    if block.file:
        Path(block.file).write_text(block.text, encoding="utf-8")
    if block.language == "bash":
        return [problem for line in lines(block.text) if (problem := _problem(lambda line=line: check_line(line, distill), line))]
    checks = {"python": lambda: _execute(block, scope), "yaml": lambda: _read_yaml(block, distill)}
    checks |= {"toml": lambda: tomllib.loads(block.text), "json": lambda: json.loads(block.text)}
    return [problem] if (problem := _problem(checks[block.language], "")) else []


def _problem(act, line: str) -> str:
    try:
        act()
    except NotAsSaidError as error:
        return f"{line}: {error}"
    except (Exception, SystemExit) as error:
        return f"{line}: {type(error).__name__}: {error}"
    return ""


def _execute(block: Block, scope: dict) -> None:
    exec(compile("\n" * block.line + block.text, str(ROOT / block.page), "exec"), scope)


def _read_yaml(block: Block, distill) -> None:
    """A study is planned, a recipe resolved; a part of a recipe is one on top of the main recipe."""
    values, name = yaml.safe_load(block.text), block.file or f"line{block.line}.yaml"
    if "recipes" in values:
        Path(name).write_text(block.text, encoding="utf-8")
        return check_line(f"distill compare {name} --plan", distill)
    parent = "" if "extends" in values else "extends: r50_to_r18\n"
    Path(name).write_text(parent + block.text, encoding="utf-8")
    plugins = [f"--plugin {path}" for path in Path().glob("*.py") if not path.name.startswith("test_")]
    return check_line(" ".join(["distill train --recipe", name, *plugins]), distill)


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's own
@pytest.mark.parametrize("page", [page for page in PAGES if any(block.language in DEFINED for block in blocks(page))], ids=lambda page: page.name)
def test_blocks_of_the_page_do_what_they_say(page, page_folder, request, distill):
    to_run = [block for block in blocks(page) if block.language in DEFINED and block.reason is None]
    text = "\n".join(block.text for block in to_run)
    furnish(page_folder, text, request.getfixturevalue("trained") if "runs/" in text else page_folder)
    scope: dict = {"__name__": "__main__"}
    wrong = [f"{block.place}: {problem}" for block in to_run for problem in check(block, scope, distill)]
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_blocks_of_the_page_are_in_a_known_language_or_have_a_reason_not_to_be_run(page):
    assert not [block.place for block in blocks(page) if block.language not in DEFINED | OTHER]
    assert not [block.place for block in blocks(page) if block.reason == ""]


@pytest.mark.parametrize(
    "language, text, problem",
    [
        ("bash", "distill trian --recipe smoke", "SystemExit: 2"),
        ("bash", "distill train --recipe smokey", "did you mean 'smoke'"),
        ("bash", "distill losses list && frobnicate", "frobnicate: no rule"),
        ("bash", 'pip install -e ".[dve]"', "no extra dve"),
        ("bash", "pip install leftpad", "in no extra"),
        ("bash", "python -m benchmarks.step --quikc", "no option --quikc"),
        ("bash", "accelerate launch --num_prcesses 2 distill/run.py --recipe smoke", "refused by its own parser"),
        ("bash", "torchrun --nproc-per-node 2 distill/run.py --recipe smoke losses.kdd=1", "losses.kdd"),
        ("bash", "sbatch docs/launch/nothing.sbatch", "there is no docs/launch/nothing.sbatch"),
        ("python", "import distill\ndistill.trian", "has no attribute 'trian'"),
        ("yaml", "losses:\n  kd: {temprature: 2}", "did you mean 'temperature'"),
        ("json", "{", "JSONDecodeError"),
        ("toml", "a =", "TOMLDecodeError"),
    ],
)
def test_what_is_wrong_in_a_block_is_said(language, text, problem, distill):
    (said,) = check(Block("page.md", 1, language, text + "\n"), {}, distill)
    assert problem in said


def test_reason_and_file_of_a_block_are_on_the_line_before_it(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A\n<!-- not run: needs a cluster -->\n```bash\nx\n```\n<!-- not run: -->\n```json\n0\n```\n"
        "`a.py`:\n```python\ny\n```\n\n- ```yaml\n  z\n  ```\n"
    )
    found = [(block.line, block.language, block.text, block.reason, block.file) for block in blocks(page)]
    assert found[:2] == [(3, "bash", "x\n", "needs a cluster", None), (7, "json", "0\n", "", None)]
    assert found[2:] == [(11, "python", "y\n", None, "a.py"), (15, "yaml", "z\n", None, None)]
