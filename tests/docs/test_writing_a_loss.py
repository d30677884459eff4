"""docs/writing_a_loss.md, from its first block to its last: its files are written into an empty folder, and its commands are run there."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from distill.losses.base import DistillLoss
from distill.resolve import import_plugin, subclasses
from distill.testing import CHECKS, LossContractError, check_loss

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "writing_a_loss.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"<!-- not run: written to (\S+) by \S+ -->\n```\w+\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
BASH = "".join(re.findall(r"^```bash\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
COMMANDS = [line.split("#")[0].strip() for line in BASH.splitlines()]
TEXTS = re.findall(r"^```text\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
SMALL = ["data.source=synthetic", "data.global_batch_size=8", "data.arguments={num_train: 16, num_val: 8, num_test: 8}"]
SMALL += ["teacher.weights=random", "teacher.model=timm/test_resnet", "student.model=timm/test_resnet"]


@pytest.fixture(autouse=True)
def _own_modules(monkeypatch, tmp_path):
    """The page's files can be imported, and are forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("COLUMNS", "150")
    yield
    for name in set(sys.modules) - before:
        if name.startswith("distill_plugin_") or f"{name}.py" in FILES:
            del sys.modules[name]


def write(*names: str) -> None:
    for name in names:
        Path(name).write_text(FILES[name], encoding="utf-8")


def command(start: str) -> list[str]:
    (found,) = [line for line in COMMANDS if line.startswith(start)]
    return shlex.split(found)[1:]


def flat(text: str) -> str:
    return " ".join(text.split())


def test_every_block_is_a_file_a_command_or_what_is_printed():
    languages = re.findall(r"^```(\w+)$", PAGE, re.MULTILINE)
    assert len(languages) == len(FILES) + PAGE.count("```bash\n") + len(TEXTS)
    starts = ["distill losses new", "pytest test_sure_angle.py", "distill losses check", "distill doctor", "distill train", "distill compare"]
    assert [line.startswith(start) for line, start in zip(COMMANDS, starts, strict=True)] == [True] * 6


def test_the_template_is_written_where_the_pages_file_goes(distill):
    assert distill(*command("distill losses new"))[0] == 0
    assert Path("sure_angle.py").exists()
    assert Path("test_sure_angle.py").exists()


def test_the_loss_keeps_the_contract_and_the_page_shows_what_is_printed(distill):
    write("sure_angle.py")
    code, out, err = distill(*command("distill losses check"))
    assert code == 0, err
    assert flat(TEXTS[1]) in flat(out)


def test_number_of_checks():
    assert f"asks {len(CHECKS) + 2} things of it" in flat(PAGE)  # that it can be made and answers, and then these


def test_the_pages_test_passes():
    write("sure_angle.py", "test_sure_angle.py")
    scope: dict = {}
    exec(compile(FILES["test_sure_angle.py"], "test_sure_angle.py", "exec"), scope)
    tests = [value for name, value in scope.items() if name.startswith("test_")]
    assert len(tests) == 3
    for test in tests:
        test()


@pytest.mark.parametrize("name", ["maps.py", "neighbours.py", "as_sure.py", "glimpse.py"])
def test_the_other_losses_keep_the_contract(name):
    write(name)
    (loss,) = subclasses(import_plugin(name), DistillLoss)
    check_loss(loss)


def test_the_check_finds_what_the_page_says_of_the_summed_loss():
    write("sure_angle.py", "summed.py")
    scope: dict = {}
    exec(FILES["summed.py"], scope)
    with pytest.raises(LossContractError) as raised:
        check_loss(scope["Summed"])
    assert "mean" in {fault.name for fault in raised.value.faults}
    for piece in TEXTS[2].split("..."):
        assert flat(piece) in flat(str(raised.value))


def test_doctor_looks_at_the_recipe(distill):
    write("sure_angle.py", "sure_angle.yaml")
    code, out, err = distill(*command("distill doctor"), *SMALL)
    assert code == 0, err
    assert "sure_angle" in out


def test_the_recipe_trains_beside_the_student_alone(distill):
    write("sure_angle.py", "sure_angle.yaml")
    code, out, err = distill(*command("distill train"), *SMALL, "train.max_steps=2", "train.log_every=1")
    assert code == 0, err
    assert "student alone" in out
    events = [json.loads(line) for line in Path("runs/sure_angle-seed0/metrics.jsonl").read_text().splitlines()]
    assert next(event for event in events if event["event"] == "weights")["sure_angle"] > 0
    assert any("sure_angle" in event for event in events)


def test_the_study_has_both_losses_and_the_student_alone_for_each_seed(distill):
    write("sure_angle.py", "sure_angle.yaml")
    code, out, err = distill(*command("distill compare"), "--plan")
    assert code == 0, err
    lines = [line for line in out.splitlines() if line.startswith("distill train")]
    assert len([line for line in lines if "sure_angle.yaml" in line]) == 5
    assert len([line for line in lines if "--recipe r50_to_r18" in line]) >= 5
