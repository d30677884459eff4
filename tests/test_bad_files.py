"""Files that are broken rather than evil: pictures, weights, plugins and command lines; each gets one message that names it, and its exit code."""

from __future__ import annotations

import io
import random
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import check_failure
from safetensors.torch import save_file
from torch import Tensor, nn

from distill.data.sources.imagefolder import ImageFolder
from distill.errors import DataError
from distill.models.weights import checksum, load_weights


@pytest.fixture(autouse=True)
def forget_plugins() -> Iterator[None]:
    """No test leaves a plugin behind for the next."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("distill_plugin_"):
            del sys.modules[name]


# pictures


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
PNG, JPEG, GIF, TIFF, WEBP = (encoded(NOISE, kind) for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP"))
DEEP = encoded(Image.fromarray(np.zeros((8, 8), dtype=np.float32)), "TIFF")
PICTURES: dict[str, tuple[str, bytes, str]] = {
    "an empty file": ("a.png", b"", "it is none of JPEG, PNG"),
    "a text": ("a.jpg", b"not found\n", "it is none of JPEG, PNG"),
    "only zeros": ("a.webp", bytes(1000), "it is none of JPEG, PNG"),
    "a PNG cut short": ("a.png", PNG[: len(PNG) // 2], "truncated"),
    "a PNG without pixels": ("a.png", PNG[:33], "can't read the picture"),
    "a PNG with a wrong checksum": ("a.png", PNG[:40] + b"xx" + PNG[42:], "can't read the picture"),
    "a JPEG cut short": ("a.jpg", JPEG[: len(JPEG) // 2], "truncated"),
    "a JPEG of its first bytes": ("a.jpg", JPEG[:4], "can't read the picture"),
    "a GIF cut short": ("a.gif", GIF[: len(GIF) // 2], "can't read the picture"),
    "a TIFF cut short": ("a.tif", TIFF[: len(TIFF) // 2], "can't read the picture"),
    "a WebP cut short": ("a.webp", WEBP[: len(WEBP) // 2], "can't read the picture"),
    "a TIFF of floats": ("a.tif", DEEP, "it has 32-bit values (mode F)"),
}


def picture(name: str, data: bytes) -> Tensor:
    """What a source gives of a picture with this content, which is the only one of its class."""
    for part, kind in ((part, kind) for part in ("train", "val", "test") for kind in ("cat", "dog")):
        folder = Path("pictures") / part / kind
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return ImageFolder("pictures").train.picture(0)


@pytest.mark.parametrize("case", PICTURES)
def test_broken_picture_is_named(case):
    name, data, part = PICTURES[case]
    with pytest.raises(DataError, match=rf"^can't read the picture pictures/train/cat/{name}: .*; replace or remove the file$") as caught:
        picture(name, data)
    assert part in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.tif", "a.webp", "a.bmp", "a.ppm"])
def test_damage_anywhere_in_a_picture_is_a_data_error_or_other_pixels(name):
    whole = encoded(NOISE.resize((12, 12)), {"jpg": "JPEG", "tif": "TIFF"}.get(name[2:], name[2:].upper()))
    dice, messages = random.Random(0), []
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(dice.randrange(1, 6)):
            data[dice.randrange(min(len(data), dice.choice([32, 10_000])))] = dice.randrange(256)
        try:
            assert picture(name, bytes(data)).shape[0] == 3
        except DataError as error:
            messages.append(str(error))
    assert messages
    assert all("can't read the picture" in message for message in messages)


FINE = {
    "an animation": ("a.gif", encoded(NOISE, "GIF", save_all=True, append_images=[NOISE.rotate(90)] * 3, duration=10)),
    "inks": ("a.jpg", encoded(NOISE.convert("CMYK"), "JPEG")),
    "a picture of one pixel": ("a.png", encoded(Image.new("1", (1, 1)), "PNG")),
    "a PNG that is called .jpg": ("a.jpg", PNG),
    "a JPEG that is called .PNG": ("a.PNG", JPEG),
}


@pytest.mark.parametrize("case", FINE)
def test_odd_picture_that_has_one_meaning_is_read(case):
    pixels = picture(*FINE[case])
    assert (pixels.shape[0], pixels.dtype) == (3, torch.uint8)


# weights


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


STATE = network().state_dict()


def changed(name: str = "0.weight", **values: Any) -> dict[str, Any]:
    """The network's weights, with those of this name of another type, or with another value first."""
    tensor = STATE[name].to(values.get("dtype", STATE[name].dtype), copy=True)
    if "first" in values:
        tensor.view(-1)[0] = values["first"]
    return {**STATE, name: tensor}


def saved(content: Any) -> Callable[[Path], None]:
    return lambda path: torch.save(content, path)


def safe(content: dict[str, Tensor], size: int | None = None) -> Callable[[Path], None]:
    """A .safetensors file, or its first bytes."""

    def make(path: Path) -> None:
        save_file(content, path)
        path.write_bytes(path.read_bytes()[:size])

    return make


def written(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


NOT_FINITE = "has values that are nan or infinite"
WEIGHTS: dict[str, tuple[str, Callable[[Path], object], list[str]]] = {
    "nothing there": ("a.pth", lambda path: None, ["no such file or folder"]),
    "an empty .pth": ("a.pth", written(b""), ["damaged, cut short"]),
    "an empty .safetensors": ("a.safetensors", written(b""), ["damaged, cut short"]),
    "a text": ("a.ckpt", written(b"version https://git-lfs.github.com/spec/v1\n"), ["is not a checkpoint"]),
    "a page of HTML": ("a.safetensors", written(b"<!doctype html><title>404</title>"), ["damaged, cut short"]),
    "another ending": ("a.h5", written(b"x"), ["the ending '.h5' is unknown", ".safetensors, .pth"]),
    "no ending": ("weights", written(b"x"), ["the ending '' is unknown"]),
    "a folder": ("folder", Path.mkdir, ["the folder has no student.safetensors", "a finished run's folder"]),
    "a .safetensors cut short": ("a.safetensors", safe(STATE, 900), ["damaged, cut short"]),
    "a .safetensors of only its header's length": ("a.safetensors", safe(STATE, 8), ["damaged, cut short"]),
    "whole numbers": ("a.pth", saved(changed(dtype=torch.int32)), ["0.weight has values of type int32", "float32"]),
    "truth values": ("a.pth", saved(changed(dtype=torch.bool)), ["0.weight has values of type bool"]),
    "complex numbers": ("a.pth", saved(changed(dtype=torch.complex64)), ["0.weight has values of type complex64"]),
    "8-bit floats": ("a.safetensors", safe(changed(dtype=torch.float8_e4m3fn)), ["0.weight has values of type float8_e4m3fn"]),
    "nan": ("a.safetensors", safe(changed(first=float("nan"))), [f"0.weight {NOT_FINITE}", "diverged"]),
    "infinity": ("a.pth", saved(changed("3.bias", first=float("-inf"))), [f"3.bias {NOT_FINITE}"]),
    "nan in a statistic": ("a.pth", saved(changed("1.running_var", first=float("nan"))), [f"1.running_var {NOT_FINITE}"]),
    "nan inside of a checkpoint": ("a.pth", saved({"model": changed(first=float("nan"))}), [f"0.weight {NOT_FINITE}"]),
    "more than float32 holds": ("a.pth", saved({**STATE, "0.bias": torch.full((4,), 1e300, dtype=torch.float64)}), [f"0.bias {NOT_FINITE}"]),
    "another prefix": (
        "a.pth",
        saved({f"theirs.{name}": tensor for name, tensor in STATE.items()}),
        ["missing in the file", "not in the network", "theirs.0.weight"],
    ),
    "a tensor too few": ("a.pth", saved({name: STATE[name] for name in STATE if name != "0.bias"}), ["missing in the file (1): 0.bias"]),
    "another shape": ("a.pth", saved({**STATE, "0.bias": torch.ones(5)}), ["0.bias [5] instead of [4]"]),
    "two networks": ("a.pth", saved({**STATE, **{f"module.{name}": tensor for name, tensor in STATE.items()}}), ["holds several networks"]),
    "a list": ("a.pth", saved([1, 2]), ["holds a list, not named tensors"]),
    "one tensor": ("a.pth", saved(torch.ones(3)), ["holds a Tensor, not named tensors"]),
    "numbers only": ("a.pth", saved({"epoch": 3, "loss": 0.5}), ["holds no tensors, only: epoch, loss"]),
    "a whole network": ("a.pth", saved(network()), ["wants to run code (torch.nn.modules.container.Sequential)", "convert it once"]),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_unusable_weights_are_named_and_the_network_is_as_it_was(case):
    name, make, parts = WEIGHTS[case]
    make(Path(name))
    model = network()
    before = checksum(model)
    with pytest.raises(DataError) as caught:
        load_weights(model, "theirs", name, num_classes=2)
    for part in (repr(name), *parts):
        assert part in str(caught.value)
    assert caught.value.exit_code == 3
    assert checksum(model) == before


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_damage_anywhere_in_weights_is_a_data_error_or_another_number(name):
    (safe(STATE) if name == "a.safetensors" else saved(STATE))(Path(name))
    whole, dice, messages = Path(name).read_bytes(), random.Random(0), []
    for _ in range(60):
        data = bytearray(whole)
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        Path(name).write_bytes(data)
        try:
            load_weights(network(), "theirs", name, num_classes=2)
        except DataError as error:
            messages.append(str(error))
    assert messages
    assert all(name in message for message in messages)


def test_nan_in_weights_stops_a_run_before_it_trains(distill):
    from distill.models.zoo import create_model

    state = create_model("resnet18", num_classes=4).state_dict()
    state["layer2.0.conv1.weight"][0, 0, 0, 0] = float("nan")
    save_file(state, "teacher.safetensors")
    code, _, err = distill("train", "--recipe", "smoke", "control=false", "teacher.model=resnet18", "teacher.weights=teacher.safetensors")
    check_failure(code, err, 3, ["'teacher.safetensors'", f"layer2.0.conv1.weight {NOT_FINITE}"])


# plugins

HEAD = "from distill.losses.base import DistillLoss\n"
LOSS = HEAD + "class Mine(DistillLoss):\n    def forward(self, student, teacher, batch):\n        return student.logits.square().mean()\n"
PLUGINS: dict[str, tuple[str | bytes | None, list[str]]] = {
    "nothing there": (None, ["there is no such file"]),
    "a slip of syntax": ("def (", ["can't be imported: SyntaxError", "mine.py"]),
    "a wrong indent": (LOSS + "   x = 1", ["can't be imported: IndentationError"]),
    "bytes that are no text": (b"\xff\xfe\0", ["can't be imported: SyntaxError"]),
    "an import of what is not there": ("import no_such_thing", ["can't be imported: ModuleNotFoundError", "no_such_thing"]),
    "a name that is not there": ("from distill.losses.base import Loss", ["can't be imported: ImportError", "'Loss'"]),
    "an error": ("1 / 0", ["can't be imported: ZeroDivisionError: division by zero"]),
    "an end of the program": ("import sys\nsys.exit()", ["can't be imported: SystemExit"]),
    "an end that looks like success": ("raise SystemExit(0)", ["can't be imported: SystemExit: 0"]),
    "endless recursion": ("def f():\n    f()\nf()", ["can't be imported: RecursionError"]),
    "no class": ("x = 1", ["no subclass of DistillLoss or DataSource"]),
    "nothing": ("", ["no subclass of DistillLoss or DataSource"]),
    "a class of torch": ("from torch.nn import Module\nclass Mine(Module): pass", ["no subclass of DistillLoss or DataSource"]),
    "a class with a built-in's name": (LOSS.replace("Mine", "KD"), ["two losses are called 'kd': distill.losses.kd and mine.py:KD; rename one"]),
    "two classes of one name": (
        LOSS + LOSS.removeprefix(HEAD).replace("Mine", "Mine2") + LOSS.removeprefix(HEAD).replace("Mine", "MINE2"),
        ["two losses are called 'mine2': mine.py:Mine2 and mine.py:MINE2; rename one"],
    ),
}


@pytest.mark.parametrize("case", PLUGINS)
@pytest.mark.parametrize("command", [["losses", "list"], ["train", "--recipe", "smoke"]], ids=["list", "train"])
def test_unusable_plugin_is_named(case, command, distill):
    content, parts = PLUGINS[case]
    if content is not None:
        Path("mine.py").write_bytes(content if isinstance(content, bytes) else content.encode())
    code, out, err = distill(*command, "--plugin", "mine.py")
    check_failure(code, err, 2, ["mine.py", *parts])
    assert out == ""
    assert not Path("runs").exists()


def test_unusable_plugin_of_the_environment_is_named(distill, monkeypatch):
    monkeypatch.setenv("DISTILL_PLUGINS", "nowhere.py")
    code, _, err = distill("losses", "list")
    check_failure(code, err, 2, ["nowhere.py: there is no such file"])


def loss(forward: str = "student.logits.square().mean()", init: str = "", setup: str = "pass") -> str:
    init = init or "def __init__(self):\n        super().__init__()"
    return textwrap.dedent(f"""
import torch
from distill.errors import RecipeError
from distill.losses.base import DistillLoss


class Mine(DistillLoss):
    {init}

    def setup(self, student, teacher):
        {setup}

    def forward(self, student, teacher, batch):
        return {forward}
""")


RAISES = "def __init__(self, width: int = 2):\n        super().__init__()\n        raise"
LOSSES: dict[str, tuple[str, list[str]]] = {
    "is made with a refusal": (loss(init=f"{RAISES} RecipeError('width is too small')"), ["losses.mine", "width is too small"]),
    "is set up with a refusal": (loss(setup="raise RecipeError('it wants a bigger teacher')"), ["losses.mine", "it wants a bigger teacher"]),
    "answers one number a sample": (loss("student.logits.square().mean(dim=1)"), ["losses.mine", "must give one finite number"]),
    "answers nan": (loss("student.logits.mean() * float('nan')"), ["losses.mine", "must give one finite number", "nan"]),
    "answers infinity": (loss("student.logits.mean() / 0"), ["losses.mine", "must give one finite number", "inf"]),
    "wants a layer that is not there": (
        loss(init="def __init__(self):\n        super().__init__(layers=['layer9'])"),
        ["losses.mine", "layer9", "layer4"],
    ),
    "has an argument without a default": (
        loss(init="def __init__(self, width: int):\n        super().__init__()"),
        ["losses.mine.width", "must be given"],
    ),
    "is detached, and alone": (loss("student.logits.detach().mean()"), ["no loss depends on the student", "detached"]),
}
BROKEN: dict[str, tuple[str, list[str]]] = {
    "is made with an error": (loss(init=f"{RAISES} ValueError('no')"), ["losses.mine", "ValueError: no"]),
    "has an argument of no type": (loss(init="def __init__(self, width: 'NoSuchType' = 2):\n        super().__init__()"), ["Mine", "NoSuchType"]),
    "has an argument that no recipe can write": (
        loss(init="def __init__(self, width: torch.Tensor = None):\n        super().__init__()"),
        ["Mine", "Tensor"],
    ),
    "forgets the base's __init__": (loss(init="def __init__(self):\n        pass"), ["losses.mine"]),
    "is set up with an error": (loss(setup="1 / 0"), ["losses.mine", "ZeroDivisionError"]),
    "raises": (loss("1 / 0"), ["losses.mine", "ZeroDivisionError"]),
    "mixes shapes": (loss("(student.logits - teacher.features['layer4']).mean()"), ["losses.mine", "layer4"]),
    "answers a number of Python": (loss("1.0"), ["losses.mine", "float"]),
    "answers nothing": (loss("None"), ["losses.mine", "NoneType"]),
    "answers two things": (loss("student.logits.mean(), 1"), ["losses.mine", "tuple"]),
    "answers a whole number": (loss("student.logits.argmax()"), ["losses.mine"]),
}
TRAIN = ["train", "--recipe", "smoke", "--plugin", "mine.py", "control=false", "teacher.model=resnet18", "losses.kd=null", "losses.mine={}"]


@pytest.mark.parametrize("case", LOSSES)
def test_loss_that_does_not_work_is_named_before_training(case, distill):
    content, parts = LOSSES[case]
    Path("mine.py").write_text(content, encoding="utf-8")
    code, _, err = distill(*TRAIN, *(["losses.ce=null"] if "alone" in case else []))
    check_failure(code, err, 2, parts)


@pytest.mark.parametrize("case", BROKEN)
def test_loss_that_breaks_is_named_before_training(case, distill):
    content, parts = BROKEN[case]
    Path("mine.py").write_text(content, encoding="utf-8")
    code, _, err = distill(*TRAIN)
    check_failure(code, err, 2, parts)


# command lines

USAGE: dict[str, tuple[list[str], str]] = {
    "no command": ([], "the following arguments are required: COMMAND"),
    "an unknown command": (["trian"], "invalid choice: 'trian'"),
    "an unknown option": (["train", "--recipe", "smoke", "--epochs", "3"], "unrecognized arguments: --epochs"),
    "an option without its value": (["train", "--recipe"], "argument --recipe: expected one argument"),
    "an unknown command for losses": (["losses", "remove", "kd"], "invalid choice: 'remove'"),
    "no name to show": (["losses", "show"], "the following arguments are required: NAME"),
    "a name too many": (["losses", "new", "a", "b"], "unrecognized arguments: b"),
}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_usage_is_explained_with_exit_code_2(case, distill, capsys):
    arguments, part = USAGE[case]
    with pytest.raises(SystemExit) as stopped:
        distill(*arguments)
    assert stopped.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("usage: distill")
    assert part in err
    assert not list(Path().iterdir())


COMMANDS: dict[str, tuple[list[str], list[str]]] = {
    "show of an unknown loss": (["losses", "show", "kdd"], ["unknown loss 'kdd'; did you mean 'kd'?"]),
    "show of a file": (["losses", "show", "mine.py"], ["unknown loss 'mine.py'", "--plugin FILE"]),
    "show of nothing": (["losses", "show", ""], ["unknown loss ''"]),
    "new of a bad name": (["losses", "new", "../mine"], ["'../mine' can't be a loss's name", "take 'mine'?"]),
    "new of a built-in's name": (["losses", "new", "kd"], ["there is a loss 'kd' already"]),
    "new over a file": (["losses", "new", "there"], ["there.py is there already, and is not written over"]),
    "check of a missing file": (["losses", "check", "nowhere.py"], ["nowhere.py: there is no such file"]),
    "check of a file without a loss": (["losses", "check", "there.py"], ["there.py: no subclass of DistillLoss"]),
    "check of a folder": (["losses", "check", "folder"], ["folder"]),
    "train with a recipe that is a folder": (["train", "--recipe", "folder"], ["there is no recipe or file 'folder'"]),
    "train with a recipe that is empty": (["train", "--recipe", "empty.yaml"], ["empty.yaml: is empty"]),
    "train with nothing": (["train", ""], ["there is no recipe or file ''"]),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_command_that_can_not_be_done_is_explained_and_changes_nothing(case, distill):
    arguments, parts = COMMANDS[case]
    Path("there.py").write_text("mine = 1", encoding="utf-8")
    Path("empty.yaml").write_text("", encoding="utf-8")
    Path("folder").mkdir()
    code, out, err = distill(*arguments)
    check_failure(code, err, 2, parts)
    assert out == ""
    assert sorted(path.name for path in Path().iterdir()) == ["empty.yaml", "folder", "there.py"]
    assert Path("there.py").read_text(encoding="utf-8") == "mine = 1"
