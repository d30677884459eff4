"""`distill losses list | show | new | check`: what is printed, written and refused, with the exit code of each."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from distill.loss_cards import default_recipe, loss_card
from distill.losses.base import DistillLoss
from distill.new_loss import class_name
from distill.resolve import Catalogue, import_plugin, subclasses

ROOT = Path(__file__).resolve().parent.parent
OWN = '''
    from distill.losses import _require
    from distill.losses.base import DistillLoss


    class Nearer(DistillLoss):
        """The student's logits come nearer.

        Kind: logit
        Equation: sum_k |s_k - t_k|; mean over the batch, with [brackets] and :smile:
        """

        def __init__(self, width: int, scale: float = 1.0):
            super().__init__()
            self.scale = scale

        def setup(self, student, teacher):
            _require.equal_classes(student, teacher)

        def forward(self, student, teacher, batch):
            return self.scale * (student.logits - teacher.logits).abs().sum(dim=1).mean()


    class Plain(DistillLoss):
        def forward(self, student, teacher, batch):
            return (student.logits - teacher.logits).square().mean()
'''


@pytest.fixture(autouse=True)
def _forget_plugins(monkeypatch):
    before = set(sys.modules)
    monkeypatch.setenv("COLUMNS", "80")
    yield
    for name in set(sys.modules) - before:
        if name.startswith("distill_plugin_"):
            del sys.modules[name]


@pytest.fixture
def own() -> str:
    Path("own.py").write_text(textwrap.dedent(OWN), encoding="utf-8")
    return "own.py"


def words(text: str) -> str:
    """The text with every run of white space as one space, because tables break lines."""
    return " ".join(text.split())


def check_refusal(result: tuple[int, str, str], *parts: str) -> None:
    code, out, err = result
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert not [part for part in parts if part not in err], err


# list


def test_list_has_every_loss_with_all_that_was_promised_and_nothing_cut_off(distill):
    code, out, err = distill("losses", "list")
    assert (code, err) == (0, "")
    catalogue = Catalogue()
    for name in catalogue.names("losses"):
        card = loss_card(name, catalogue.get("losses", name))
        for line in out.splitlines():
            if line.split()[:2] == [name, "idea"]:
                break
        else:
            pytest.fail(f"{name} is not listed")
        assert_has_in_order(words(out), f"{name} idea", card.summary, "inputs", card.inputs, "paper", card.paper, "weights", card.weights, card.cost)
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out


def assert_has_in_order(text: str, *parts: str) -> None:
    """In a cell that folds a long word, the spaces of the text are not those of the card; so they don't count."""
    text, place = "".join(text.split()), 0
    for part in parts:
        place = text.find("".join(part.split()), place)
        assert place >= 0, part


def test_list_goes_by_kind(distill):
    _, out, _ = distill("losses", "list")
    titles = [line.partition(":")[0] for line in out.splitlines() if line[:1].isupper()]
    assert titles[:2] == ["Logit losses", "Feature losses"]
    assert out.index("Logit losses") < out.index("\nkd ") < out.index("Feature losses") < out.index("\nfitnet ")


def test_list_as_json_is_all_that_the_cards_say(distill):
    code, out, err = distill("losses", "list", "--json")
    assert (code, err) == (0, "")
    cards = {card["name"]: card for card in json.loads(out)}
    assert list(cards) == Catalogue().names("losses")
    assert {"name", "kind", "inputs", "summary", "paper", "weights", "cost", "equation", "labels", "notes"} <= set(cards["kd"])
    assert cards["kd"]["arguments"][0] == {"name": "temperature", "type": "float", "default": 4.0, "is_required": False}
    assert cards["at"]["arguments"][0]["default"] == ["layer1", "layer2", "layer3", "layer4"]
    assert [cards[name]["needs_teacher"] for name in ("ce", "kd")] == [False, True]
    assert [cards[name]["needs_labels"] for name in ("ce", "kd", "crd")] == [True, False, True]
    assert [cards[name]["needs_all_logits"] for name in ("kd", "dkd", "fitnet")] == [False, True, False]


def test_list_shows_ones_own_losses_also_where_they_say_nothing_of_themselves(distill, own):
    _, out, _ = distill("losses", "list", "--plugin", own)
    assert "The student's logits come nearer." in out
    tail = out[out.index("Losses whose docstring does not say their kind") :]
    assert "plain" in tail
    assert "nearer" not in tail


@pytest.mark.parametrize("columns", ["40", "200"])
def test_list_fits_the_terminal_and_stays_readable_on_a_wide_one(distill, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    lines = distill("losses", "list")[1].splitlines()[:-2]
    assert max(map(len, lines)) <= min(int(columns), 120)


def test_plugins_come_from_the_environment_too(distill, own, monkeypatch):
    monkeypatch.setenv("DISTILL_PLUGINS", own)
    assert "nearer" in distill("losses", "list")[1]
    assert distill("losses", "show", "nearer")[0] == 0


# show


def test_show_has_equation_arguments_and_recipe(distill):
    code, out, err = distill("losses", "show", "kd")
    assert (code, err) == (0, "")
    card = loss_card("kd", Catalogue().get("losses", "kd"))
    assert_has_in_order(out, card.summary, card.inputs, card.equation, card.paper, card.weights, card.labels, card.cost, card.notes)
    assert "│ temperature │ float │ 4.0     │" in out
    assert max(map(len, out[: out.index("distill train")].splitlines())) <= 80


def test_show_makes_a_recipe_of_the_defaults_where_none_ships(distill):
    card = loss_card("ce", Catalogue().get("losses", "ce"))
    assert distill("losses", "show", "ce")[1].endswith(f"A recipe with its defaults\n{default_recipe(card)}\n")


def test_show_prints_the_losses_of_the_recipe_that_is_called_after_the_loss(distill):
    Path("recipes/losses").mkdir(parents=True)
    section = "losses:\n  ce: {weight: 0.5}  # " + "a long line that is not to be broken " * 4 + "\n  kd: {weight: 0.25}"
    Path("recipes/losses/kd.yaml").write_text(f"extends: r50_to_r18\n{section}\ntrain:\n  epochs: 3\n", encoding="utf-8")
    _, out, _ = distill("losses", "show", "kd")
    assert out.endswith(f"distill train --recipe losses/kd   (recipes/losses/kd.yaml)\n{section}\n")


def test_show_knows_ones_own_losses_and_what_must_be_given(distill, own):
    code, out, _ = distill("losses", "show", "nearer", "--plugin", own)
    assert code == 0
    assert "with [brackets] and :smile:" in words(out)
    assert "│ width    │ int   │ must be given │" in out
    assert "    width:  # int, must be given" in out


def test_show_of_a_loss_without_a_docstring_has_its_recipe(distill, own):
    code, out, _ = distill("losses", "show", "plain", "--plugin", own)
    assert code == 0
    assert "  plain: {weight: 1.0" in out


def test_show_says_what_a_loss_needs(distill, own):
    text = textwrap.dedent(OWN).replace("    def __init__", "    batch_coupled = True\n    takes_soft_labels = False\n\n    def __init__")
    Path(own).write_text(text, encoding="utf-8")
    _, out, _ = distill("losses", "show", "nearer", "--plugin", own)
    assert "a teacher; all of its logits: no teacher.cache.format=topk; the batch of all processes together: it compares samples" in words(out)
    assert "one class a sample: no mixup, no cutmix" in words(out)
    assert needs_of(distill, "ce") == "no teacher; labels: no data.labels=none"
    assert needs_of(distill, "kd") == "a teacher"
    assert needs_of(distill, "dkd") == (
        "a teacher; all of its logits: no teacher.cache.format=topk; labels: no data.labels=none; one class a sample: no mixup, no cutmix"
    )


def needs_of(distill, name: str) -> str:
    """What stands beside `needs`, which is the last of the facts."""
    return words(distill("losses", "show", name)[1].split("\nneeds", 1)[1].split("\n\n", 1)[0])


def test_show_of_an_unknown_name_gives_the_nearest(distill):
    check_refusal(distill("losses", "show", "kdd"), "unknown loss 'kdd'; did you mean 'kd'?", "--plugin FILE")


@pytest.mark.parametrize("command", [["list"], ["show", "kd"]])
def test_a_plugin_that_is_not_there_is_named(distill, command):
    check_refusal(distill("losses", *command, "--plugin", "nowhere.py"), "--plugin nowhere.py: there is no such file")


# new


def test_new_writes_a_loss_and_its_test_and_says_what_to_do_next(distill):
    code, out, err = distill("losses", "new", "my_loss")
    assert (code, err) == (0, "")
    assert sorted(path.name for path in Path().iterdir()) == ["my_loss.py", "test_my_loss.py"]
    for part in ("distill losses check my_loss.py", "pytest test_my_loss.py", "distill train --recipe my_loss.yaml --plugin my_loss.py"):
        assert part in out
    card = loss_card("my_loss", *subclasses(import_plugin("my_loss.py"), DistillLoss))
    assert textwrap.indent(default_recipe(card), "  ") in out
    assert all((card.summary, card.inputs, card.equation, card.paper, card.weights, card.labels, card.cost, card.notes))
    assert card.kind == "feature"


def test_new_files_are_plain_well_formed_python(distill):
    name = "a" * 40
    distill("losses", "new", name)
    for file in (f"{name}.py", f"test_{name}.py"):
        text = Path(file).read_text(encoding="utf-8")
        assert "$" not in text
        assert max(map(len, text.splitlines())) <= 150
    options = ["--isolated", "--line-length", "150", "--select", "E,F,I,B,UP,SIM,RUF,PT,RET", "."]
    done = subprocess.run([sys.executable, "-m", "ruff", "check", *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_new_loss_can_be_trained_with_the_recipe_that_is_shown(distill):
    _, out, _ = distill("losses", "new", "my_loss")
    Path("my_loss.yaml").write_text(textwrap.dedent(out.partition("with my_loss.yaml:\n")[2]), encoding="utf-8")
    quick = ["data.source=synthetic", "data.root=null", "data.image_size=32", "data.global_batch_size=8", "train.max_steps=2", "control=false"]
    follows = "losses.my_loss.focus={schedule: linear, start: 0, end: 2}"
    code, _, err = distill("train", "--recipe", "my_loss.yaml", "--plugin", "my_loss.py", "teacher.weights=random", follows, *quick)
    assert code == 0, err
    first = json.loads(Path("runs/my_loss-seed0/metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first["my_loss"] > 0


def test_new_losss_test_passes_as_written(distill):
    distill("losses", "new", "my_loss")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_loss.py"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


@pytest.mark.parametrize("there", ["my_loss.py", "test_my_loss.py"])
def test_new_writes_over_nothing(distill, there):
    Path(there).write_text("mine", encoding="utf-8")
    check_refusal(distill("losses", "new", "my_loss"), f"{there} is there already")
    assert [(path.name, path.read_text(encoding="utf-8")) for path in Path().iterdir()] == [(there, "mine")]


@pytest.mark.parametrize(
    "name, parts",
    [
        ("kd", ["there is a loss 'kd' already", "distill losses show kd"]),
        ("MyLoss", ["take 'my_loss'?"]),
        ("my-loss", ["take 'my_loss'?"]),
        ("my loss", ["take 'my_loss'?"]),
        ("2nd", ["take 'nd'?"]),
        ("a_b", ["its class AB 'ab'", "take 'ab'?"]),
        ("my__loss", ["take 'my_loss'?"]),
        ("../away", ["take 'away'?"]),
        ("", ["small letters and digits"]),
        ("größe", ["small letters and digits"]),
        ("a" * 41, ["up to 40"]),
        ("class", ["class.py or its class Class"]),
        ("none", ["None means something else"]),
        ("test_it", ["pytest"]),
        ("conftest", ["pytest"]),
        ("batch", ["its class would be Batch", "my_batch"]),
        ("distill_loss", ["its class would be DistillLoss"]),
        ("random", ["hide the module 'random'"]),
        ("torch", ["hide the module 'torch'"]),
    ],
)
def test_new_refuses_a_name_that_would_not_work(distill, name, parts):
    check_refusal(distill("losses", "new", name), *parts)
    assert not list(Path().iterdir())


def test_new_leaves_nothing_where_it_can_not_write_all(distill, monkeypatch):
    real = Path.open
    full = OSError(28, "No space left on device")

    def open_until_the_disk_is_full(path, mode="r", **options):
        if path.name == "test_my_loss.py":
            raise full
        return real(path, mode, **options)

    monkeypatch.setattr(Path, "open", open_until_the_disk_is_full)
    check_refusal(distill("losses", "new", "my_loss"), "test_my_loss.py can't be written: No space left on device")
    assert not list(Path().iterdir())


@pytest.mark.parametrize("name, cls", [("my_loss", "MyLoss"), ("kd2", "Kd2"), ("layer4_match", "Layer4Match")])
def test_class_is_named_after_the_loss(name, cls):
    assert class_name(name) == cls


# check


def test_check_says_of_each_loss_that_it_is_well(distill):
    distill("losses", "new", "my_loss")
    code, out, err = distill("losses", "check", "my_loss.py")
    assert (code, out, err) == (0, "my_loss: keeps the contract\n", "")


def test_check_takes_arguments_and_names_what_is_wrong(distill, own):
    check_refusal(distill("losses", "check", own), "nearer.width")
    check_refusal(distill("losses", "check", own, "width=2", "skale=3"), "nearer.skale: unknown argument; did you mean 'scale'?")
    check_refusal(distill("losses", "check", own, "width=wide"), "nearer.width", "'wide'")
    check_refusal(distill("losses", "check", own, "width"), "`width` is not of the form KEY=VALUE")
    check_refusal(distill("losses", "check", own, "width={"), "not valid YAML")


def test_check_prints_every_fault_of_each_loss_and_exits_1(distill, own):
    text = textwrap.dedent(OWN).replace("width: int, ", "").replace("    return (student", "    return float('nan') * (student")
    Path(own).write_text(text, encoding="utf-8")
    code, out, err = distill("losses", "check", own)
    assert code == 1
    assert "nearer: keeps the contract" in out
    assert "plain: breaks the contract\n  " in out
    assert err == "error: own.py: plain breaks the contract of a loss\n"


@pytest.mark.parametrize("source, reason", [("1 / 0", "can't be imported: ZeroDivisionError"), ("x = 1", "no subclass of DistillLoss")])
def test_check_of_a_file_that_can_not_be_used_says_why(distill, source, reason):
    Path("mine.py").write_text(source, encoding="utf-8")
    check_refusal(distill("losses", "check", "mine.py"), "error: mine.py", reason)


def test_check_of_a_file_that_is_not_there_says_so(distill):
    check_refusal(distill("losses", "check", "nowhere.py"), "error: nowhere.py: there is no such file")


def test_check_takes_the_file_of_a_built_in_loss(distill):
    code, out, _ = distill("losses", "check", str(ROOT / "distill" / "losses" / "kd.py"))
    assert (code, out) == (0, "kd: keeps the contract\n")


# help


@pytest.mark.parametrize("command", [["--help"], ["losses", "--help"], ["losses", "list", "--help"], ["losses", "new", "--help"]])
def test_help_needs_neither_torch_nor_rich(command):
    code = f"import sys\nfrom distill.cli import main\ntry: main({command})\nexcept SystemExit: print({{'torch', 'rich'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")


def test_losses_without_a_command_lists_the_commands(distill, capsys):
    with pytest.raises(SystemExit) as stopped:
        distill("losses")
    assert stopped.value.code == 2
    assert "COMMAND" in capsys.readouterr().err
