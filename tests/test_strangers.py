"""Whatever strangers' recipes, weights, runs and pictures hold: nothing of it runs, nothing is fetched, and one message says what it was."""

from __future__ import annotations

import builtins
import io
import json
import os
import pickle
import signal
import socket
import struct
import subprocess
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import check_failure
from safetensors.torch import save_file

from distill.data.sources.imagefolder import ImageFolder
from distill.errors import DataError, RecipeError
from distill.models.weight_files import read_weight_file
from distill.models.weight_sources import read_source
from distill.models.zoo import create_model
from distill.report.table import compare_runs


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test may leave the file that the strangers' code would make, begin a program, ask for a connection, or wait for a pipe."""
    asked: list[object] = []

    def refuse(*arguments: Any, **_: Any) -> None:
        if arguments != (["uname", "-p"],):  # Python's own `platform` asks that, for environment.json
            asked.append(arguments)
        raise OSError("a test of strangers' files asked for this")

    def stop(*_: Any) -> None:
        raise TimeoutError("it hangs")

    for owner, name in ((subprocess, "Popen"), (os, "system"), (socket, "getaddrinfo"), (socket.socket, "connect")):
        monkeypatch.setattr(owner, name, refuse)
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    assert not (tmp_path / "owned").exists()
    assert not asked


def runs(function: Callable, *arguments: Any) -> object:
    """An object whose pickle calls the function when it is read."""

    class Stranger:
        def __reduce__(self):
            return function, arguments

    return Stranger()


EVIL = runs(os.mkdir, "owned")


# weights


def plain(content: Any, protocol: int = 2) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(pickle.dumps(content, protocol))


def saved(content: Any, **options: Any) -> Callable[[Path], None]:
    return lambda path: torch.save(content, path, **options)


def old_tar(path: Path) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in {"storages": 0, "tensors": 0, "pickle": {"a": EVIL}}.items():
            data = pickle.dumps(content, 2)
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def bomb(path: Path) -> None:
    """100 MiB of zeros in 100 kB."""
    torch.save({"a": torch.zeros(4)}, "whole.pt")
    with zipfile.ZipFile("whole.pt") as whole, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in whole.namelist():
            archive.writestr(name, bytes(100 * 2**20) if name.endswith("data/0") else whole.read(name))


def many_names(path: Path) -> None:
    """The same 100 kB under 5,000 names, which only the list at the file's end repeats."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
        archive.writestr("archive/data/0", bytes(100_000))
        archive.filelist += [archive.filelist[-1]] * 5000


def tall_story(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
        archive.filelist[-1].file_size = 2**45


def around_itself(path: Path) -> None:
    content: dict[str, Any] = {}
    content["state_dict"] = content
    torch.save(content, path)


def tensors(header: dict[str, Any] | bytes, body: int = 8, length: int | None = None) -> Callable[[Path], None]:
    """A safetensors file with this header, which says that it is this long, and as many zeros after it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return lambda path: path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + bytes(body))


def tensor(start: int, end: int, shape: list[int] | None = None, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape or [(end - start) // 4], "data_offsets": [start, end]}


RUN_CODE, FOREIGN, DAMAGED = "wants to run code (posix.mkdir)", "not a checkpoint that torch.save wrote", "damaged, cut short"
WEIGHTS: dict[str, tuple[Callable[[Path], object], str, list[str]]] = {
    "a pickle as .pth": (plain({"a": EVIL}), "a.pth", [RUN_CODE, "save_file"]),
    "a pickle as .pt": (plain(EVIL), "a.pt", [RUN_CODE]),
    "a pickle as .bin": (plain([EVIL]), "a.bin", [RUN_CODE]),
    "a pickle as .ckpt": (plain({"state_dict": {"a": EVIL}}), "a.ckpt", [RUN_CODE]),
    "a pickle as .tar": (plain({"a": EVIL}), "a.tar", [RUN_CODE]),
    "a pickle of a newer protocol": (plain({"a": EVIL}, 5), "a.pth", [FOREIGN]),
    "a pickle as .safetensors": (plain({"a": EVIL}), "a.safetensors", [DAMAGED]),
    "a pickle as .npz": (plain({"a": EVIL}), "a.npz", ["the ending '.npz' is unknown", ".safetensors"]),
    "a pickle as .pkl": (plain({"a": EVIL}), "a.pkl", ["the ending '.pkl' is unknown"]),
    "torch.save's archive": (saved({"a": EVIL}), "a.pth", [RUN_CODE]),
    "torch.save's old format": (saved({"a": EVIL}, _use_new_zipfile_serialization=False), "a.pth", [RUN_CODE]),
    "torch's old tar format": (old_tar, "a.tar", ["old .tar format", "state_dict()"]),
    "code between tensors": (saved({"state_dict": {"a": torch.ones(1), "b": {"c": [EVIL]}}}), "a.pth", [RUN_CODE]),
    "builtins.eval": (saved({"a": runs(builtins.eval, "__import__('os').mkdir('owned')")}), "a.pth", ["run code (eval)"]),
    "builtins.exec": (plain(runs(builtins.exec, "import os; os.mkdir('owned')")), "a.pth", ["run code (exec)"]),
    "os.system": (saved({"a": runs(os.system, "touch owned")}), "a.pth", ["run code (posix.system)"]),
    "subprocess.Popen": (lambda path: path.write_bytes(b"csubprocess\nPopen\n((Vtouch\nVowned\nltR."), "a.pth", ["run code (subprocess.Popen)"]),
    "torch.hub.load": (saved({"a": runs(torch.hub.load, "a/b", "c")}), "a.pth", ["run code (torch.hub.load)"]),
    "torch.load inside": (saved({"a": runs(torch.load, "other.pth", None, None, False)}), "a.pth", ["run code (torch.serialization.load)"]),
    "an object array of numpy": (plain(np.array([EVIL], dtype=object)), "a.pth", ["run code (numpy"]),
    "a program of TorchScript": (lambda path: torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), path), "a.pt", ["TorchScript program"]),
    "a dictionary around itself": (around_itself, "a.pth", ["more than 10 dictionaries"]),
    "an archive that unpacks to much more": (bomb, "a.pth", ["would unpack to 104,8", "more than 10 times its size"]),
    "an archive of one part under 5,000 names": (many_names, "a.pth", ["would unpack to 500,", "more than 10 times its size"]),
    "an archive that says it is 32 TB": (tall_story, "a.pth", ["would unpack to 35,184,372,0", "more than 10 times its size"]),
    "code whose name would command a terminal": (lambda path: path.write_bytes(b"cos\x1b[2J\nsystem\n(Vtouch owned\ntR."), "a.pth", ["run code ("]),
    "a tensor whose name would command a terminal": (saved({"a\x1b[2J": torch.ones(1)}), "a.pth", ["'a\\x1b[2J' can't be the name of a tensor"]),
    "a key that would command a terminal": (saved({"a\x1b[2J": 1}), "a.pth", ["holds no tensors, only: 'a\\x1b[2J'"]),
    "a tensor with a name of a million letters": (tensors({"a" * 10**6: tensor(0, 8)}), "a.safetensors", ["can't be the name of a tensor"]),
    "more bytes than there is memory": (saved({"a": runs(bytearray, 2**60)}), "a.pth", [DAMAGED]),
    "a sparse tensor": (saved({"a": torch.ones(2, 2).to_sparse()}), "a.pth", ["'a' is no plain tensor"]),
    "a tensor without values": (saved({"a": torch.ones(2, device="meta")}), "a.pth", ["'a' is no plain tensor"]),
    "names that are no text": (saved({0: torch.ones(1), ("a",): torch.ones(1)}), "a.pth", ["holds no tensors"]),
    "a header longer than the file": (tensors(b"{}", length=90 * 2**20), "a.safetensors", [DAMAGED]),
    "a header of 8 exabytes": (tensors(b"{}", length=2**63), "a.safetensors", [DAMAGED]),
    "a header that is no JSON": (tensors(b"\xff\xfe{"), "a.safetensors", [DAMAGED]),
    "a header of 100,000 brackets": (tensors(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "a.safetensors", [DAMAGED]),
    "tensors over each other": (tensors({"a": tensor(0, 8), "b": tensor(4, 12)}, 12), "a.safetensors", [DAMAGED]),
    "a tensor beyond the end": (tensors({"a": tensor(0, 800)}), "a.safetensors", [DAMAGED]),
    "a tensor before the beginning": (tensors(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}}'), "a.safetensors", [DAMAGED]),
    "a tensor of more values than bytes": (tensors({"a": tensor(0, 8, [2**40])}), "a.safetensors", [DAMAGED]),
    "a shape that overflows": (tensors({"a": tensor(0, 8, [2**62, 8])}), "a.safetensors", [DAMAGED]),
    "a pipe": (os.mkfifo, "a.pth", ["not a file"]),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "a.safetensors", ["not a file"]),
}


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_are_refused_and_run_nothing(case):
    make, name, parts = WEIGHTS[case]
    make(Path(name))
    start = time.perf_counter()
    with pytest.raises(DataError) as caught:
        read_weight_file(Path(name))
    assert time.perf_counter() - start < 5
    assert caught.value.exit_code == 3
    for part in (name, *parts):
        assert part in str(caught.value)
    assert len(str(caught.value)) < 2000
    assert str(caught.value).replace("\n", "").isprintable()


def test_weights_are_refused_at_the_command_line_before_a_run_has_results(distill):
    torch.save({"state_dict": EVIL}, "a.pth")
    code, _, err = distill("train", "--recipe", "smoke", "control=false", "teacher.model=resnet18", "teacher.weights=a.pth")
    check_failure(code, err, 3, [RUN_CODE, "weights_only=False"])


@pytest.mark.parametrize("name", ["$(touch owned).pth", "`touch owned`.pth", '";touch owned;".pth', "');import os;os.mkdir('owned');('.pth"])
def test_advice_to_convert_is_no_command_of_the_files_name(name):
    torch.save({"a": EVIL}, name)
    with pytest.raises(DataError) as caught:
        read_weight_file(Path(name))
    advice = str(caught.value).partition("\n")[2]
    assert "torch.load('FILE'" in advice
    assert "owned" not in advice


NO_SOURCE = ["timm:hf-hub:someone/x", "timm:hf_hub:someone/x", "timm:local-dir:.", "timm:../x", "torchvision:../x", "torchvision:get_state_dict"]


@pytest.mark.parametrize("source", NO_SOURCE)
def test_published_weights_are_those_that_the_library_lists(source):
    with pytest.raises(RecipeError, match="weights"):
        read_source(source, "resnet18")


@pytest.mark.parametrize("source", ["https://example.com/a.pth", "file:///etc/passwd", "s3://a/b.pth", "~nobody-here/a.pth", "x" * 5000])
def test_weights_from_anywhere_else_are_no_file(source):
    with pytest.raises(DataError, match="weights"):
        read_source(source, "resnet18")


WITH_WEIGHTS = [{"pretrained": True}, {"checkpoint_path": "evil.pth"}, {"weights": "DEFAULT"}, {"features_only": True}]
WITH_WEIGHTS += [{"pretrained_cfg": {"file": "evil.pth"}}, {"pretrained_cfg_overlay": {"file": "evil.pth"}}, {"cache_dir": "evil"}]


@pytest.mark.parametrize("arguments", WITH_WEIGHTS, ids=lambda arguments: next(iter(arguments)))
@pytest.mark.parametrize("model", ["resnet18", "timm/resnet18", "torchvision/resnet18"])
def test_arguments_of_a_model_can_not_bring_weights(model, arguments):
    torch.save(EVIL, "evil.pth")
    with pytest.raises(RecipeError, match=f"arguments can't set {next(iter(arguments))}"):
        create_model(model, num_classes=2, arguments=arguments)


def test_arguments_of_a_model_name_no_function():
    with pytest.raises(RecipeError, match=r"model 'timm/resnet18': .*os\.system"):
        create_model("timm/resnet18", num_classes=2, arguments={"act_layer": "os.system"})


# runs


@pytest.mark.parametrize("evil", ["test", "test_labels"])
def test_predictions_of_a_run_that_hold_objects_are_refused(evil):
    for run in ("mine", "theirs"):
        Path(run).mkdir()
        np.savez(Path(run) / "predictions.npz", test=np.zeros(3), test_labels=np.zeros(3))
    np.savez("theirs/predictions.npz", **{"test": np.zeros(3), "test_labels": np.zeros(3), evil: np.array([EVIL] * 3, dtype=object)})
    with pytest.raises(DataError, match=r"theirs/predictions\.npz is missing or damaged"):
        compare_runs(Path("mine"), Path("theirs"))


# recipes

CODE = "from pathlib import Path\nPath('owned').touch()\n"
ALIASES = "a0: &a0 [x, x]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(40))
TAGS = [
    "!!python/object/apply:os.mkdir [owned]",
    "!!python/object/new:os.mkdir [owned]",
    "!!python/object:argparse.Namespace {a: 1}",
    "!!python/name:os.system",
    "!!python/module:evil",
    "!!python/tuple [1]",
    "!<tag:yaml.org,2002:python/object/apply:os.mkdir> [owned]",
]
RECIPES: dict[str, tuple[str, list[str]]] = {
    **{f"the tag {tag}": (f"seed: {tag}", ["mine.yaml:2: seed: the tag", "is not allowed: a recipe is plain data"]) for tag in TAGS},
    "a tag of its own": ("%TAG ! tag:yaml.org,2002:python/\n---\nseed: !name:os.system x", ["not valid YAML"]),
    "an alias bomb": (ALIASES, ["more than 20000 values"]),
    "an alias inside itself": ("data: &a {arguments: *a}", ["levels of nesting"]),
    "a number of 5,000 digits": ("seed: " + "9" * 5000, ["not valid YAML"]),
    "100,000 levels": ("data: " + "[" * 100_000, ["more than 30 levels of nesting"]),
    "2 MB": ("#" * 2**21, ["is larger than 1 MiB"]),
    "an absolute extends": ("extends: /etc/passwd", ["outside this recipe's folder"]),
    "an extends from home": ("extends: ~/secret", ["outside this recipe's folder"]),
    "an extends upwards": ("extends: ../../secret", ["outside this recipe's folder"]),
    "an extends upwards from below": ("extends: recipes/../../../secret", ["outside this recipe's folder"]),
    "an extends by a link": ("extends: link", ["outside this recipe's folder"]),
    "an extends by a folder that is a link": ("extends: away/secret", ["outside this recipe's folder"]),
    "an extends with a null byte": ('extends: "r50\\0"', ["extends", "can't be read as text"]),
    "an extends of a pipe": ("extends: pipe", ["there is no recipe 'pipe'"]),
    "an extends of the web": ("extends: https://example.com/a.yaml", ["there is no recipe"]),
    "a run name upwards": ("run_name: ../x", ["run_name", "1 to 100 letters"]),
    "a run name of the root": ("run_name: /tmp/x", ["run_name"]),
    "a run name with a null byte": ('run_name: "a\\0b"', ["run_name", "can't be read as text"]),
    "a run name of dots": ("run_name: .", ["run_name"]),
    "a run name with a line end": ('run_name: "a\\n"', ["run_name"]),
    "a run name of 5,000 letters": (f"run_name: {'x' * 5000}", ["run_name"]),
    "a function as a loss": ("losses: {x: {type: os.system}}", ["losses.x", "unknown loss 'os.system'"]),
    "a file as a loss": ("losses: {x: {type: evil.py}}", ["losses.x", "unknown loss 'evil.py'", "--plugin FILE"]),
    "a module as a loss": ("losses: {evil: {}}", ["losses.evil", "unknown loss 'evil'"]),
    "a module of ours as a loss": ("losses: {x: {type: _bank}}", ["losses.x", "unknown loss '_bank'"]),
    "a file as a source": ("data: {source: evil.py}", ["data.source", "unknown data source 'evil.py'"]),
    "a module as a source": ("data: {source: evil}", ["data.source", "unknown data source 'evil'"]),
    "a path as a model": ("student: {model: ../../x}", ["student.model", "is unknown"]),
    "a class as a model": ("student: {model: evil.Network}", ["student.model", "is unknown"]),
    "a model of the hub": ("student: {model: timm/hf-hub:someone/x}", ["student.model", "is unknown"]),
    "a model of the hub, spelt otherwise": ("student: {model: 'timm/hf_hub:x'}", ["student.model", "is unknown"]),
    "a model of a folder": ("student: {model: 'timm/local-dir:.'}", ["student.model", "is unknown"]),
    "a function of torchvision as a model": ("student: {model: torchvision/get_model}", ["student.model", "is unknown"]),
    "a plugin": ("plugin: evil.py", ["plugin: unknown key"]),
    "plugins": ("plugins: [evil.py]", ["plugins: unknown key"]),
    "a plugin of the data": ("data: {plugin: evil.py}", ["data.plugin: unknown key"]),
    "a plugin of a loss": ("losses: {kd: {plugin: evil.py}}", ["losses.kd.plugin: unknown argument"]),
    "a teacher's recipe with code": ("teacher: {recipe: theirs.yaml}", ["theirs.yaml", "is not allowed"]),
    "a teacher's run name upwards": ("teacher: {overrides: {run_name: ../x}}", ["run_name"]),
}


@pytest.mark.parametrize("case", RECIPES)
def test_recipe_is_refused_and_runs_nothing(case, distill, tmp_path, monkeypatch):
    text, parts = RECIPES[case]
    Path("secret.yaml").write_text("seed: 1", encoding="utf-8")
    home = tmp_path / "a" / "b"
    home.mkdir(parents=True)
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(home)
    Path("evil.py").write_text(CODE.replace("'owned'", repr(str(tmp_path / "owned"))), encoding="utf-8")
    Path("theirs.yaml").write_text(f"extends: r50_alone\nseed: {TAGS[0]}", encoding="utf-8")
    Path("link.yaml").symlink_to(tmp_path / "secret.yaml")
    Path("away").symlink_to(tmp_path)
    os.mkfifo("pipe.yaml")
    Path("mine.yaml").write_text(text if "extends:" in text else f"extends: smoke\n{text}", encoding="utf-8")
    if "teacher" in case:
        Path("mine.yaml").write_text(f"extends: r50_to_r18\ncontrol: false\n{text}", encoding="utf-8")
    code, _, err = distill("train", "--recipe", "mine.yaml")
    check_failure(code, err, 2, parts)
    assert not (home / "owned").exists()
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("override", ["seed=!!python/object/apply:os.mkdir [owned]", "plugin=evil.py", "run_name=../x", "losses.x={type: evil.py}"])
def test_override_is_refused_and_runs_nothing(override, distill):
    Path("evil.py").write_text(CODE, encoding="utf-8")
    code, _, err = distill("train", "--recipe", "smoke", override)
    check_failure(code, err, 2, [override.partition("=")[0]])


def test_recipe_that_is_a_pipe_is_not_waited_for(distill):
    os.mkfifo("mine.yaml")
    code, _, err = distill("train", "--recipe", "mine.yaml")
    check_failure(code, err, 2, ["there is no recipe or file 'mine.yaml'"])


# pictures


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def large_png(side: int) -> bytes:
    """A picture of side x side in some hundred bytes."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def encoded(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, kind)
    return file.getvalue()


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(owned) (w) file closefile\nshowpage\n%%EOF\n"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="https://example.com/a.png"/><script>1</script></svg>'
NONE_OF = "it is none of JPEG, PNG"
PICTURES: dict[str, tuple[bytes, list[str]]] = {
    "a bomb": (large_png(60_000), ["decompression bomb"]),
    "a picture of 144 million pixels": (large_png(12_000), ["decompression bomb"]),
    "PostScript": (EPS, [NONE_OF]),
    "SVG": (SVG, [NONE_OF]),
    "PDF": (b"%PDF-1.7\n1 0 obj<</OpenAction<</S/JavaScript>>>>endobj", [NONE_OF]),
    "a program": (b"#!/bin/sh\ntouch owned\n", [NONE_OF]),
    "a pickle": (pickle.dumps(EVIL), [NONE_OF]),
    "a page of HTML": (b"<html><script>alert(1)</script>", [NONE_OF]),
    **{f"a picture of a kind that nobody asked for, {kind}": (encoded(kind), [NONE_OF]) for kind in ("PDF", "ICO", "TGA", "PCX", "SGI", "JPEG2000")},
}


def folder(**pictures: Callable[[Path], object]) -> ImageFolder:
    """cat/ with these, dog/ with ten good ones, and a source of all of them."""
    for name, make in {**{f"dog/{i}": good for i in range(10)}, **pictures}.items():
        path = Path("pictures/train") / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path)
    return ImageFolder("pictures", image_size=16)


def good(path: Path) -> None:
    Image.new("RGB", (16, 16)).save(path)


@pytest.mark.parametrize("case", PICTURES)
def test_picture_that_is_none_is_refused_and_runs_nothing(case):
    data, parts = PICTURES[case]
    source = folder(**{f"cat/{i}": lambda path: path.write_bytes(data) for i in range(10)})
    position = source.train.labels.tolist().index(source.class_names.index("cat"))
    with pytest.raises(DataError) as caught:
        source.train.picture(position)
    for part in ("can't read the picture pictures/train/cat", "replace or remove the file", *parts):
        assert part in str(caught.value)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to("nowhere"), Path.mkdir])
def test_what_is_no_file_is_no_picture_and_is_not_opened(make):
    with pytest.raises(DataError, match="cat has no pictures"):
        folder(**{"cat/0": make})
    assert len(folder(**{f"cat/{i}": good for i in range(1, 11)})._files) == 20


def test_class_that_is_a_link_gives_its_pictures_and_nothing_else():
    Path("elsewhere").mkdir()
    for index in range(10):
        good(Path("elsewhere") / f"{index}.png")
    Path("elsewhere/secret.txt").write_text("secret", encoding="utf-8")
    Path("elsewhere/evil.py").write_text(CODE, encoding="utf-8")
    Path("pictures/train").mkdir(parents=True)
    Path("pictures/train/cat").symlink_to(Path("elsewhere").absolute())
    assert {path.suffix for path in folder()._files} == {".png"}


def test_folders_that_lead_back_to_themselves_end():
    Path("pictures/train/cat").mkdir(parents=True)
    Path("pictures/train/cat/again").symlink_to(Path("pictures").absolute())
    assert len(folder(**{f"cat/{i}": good for i in range(10)})._files) == 20


def test_name_that_is_not_utf8_has_a_fingerprint():
    first = folder(**{f"cat/{i}\udcff": good for i in range(10)}).fingerprint()
    assert len(first) == 64


# and what is meant to be read


def test_good_files_are_still_read():
    state = create_model("resnet18", num_classes=2).state_dict()
    torch.save({"epoch": 3, "model": state}, "good.pth")
    torch.save(state, "old.pth", _use_new_zipfile_serialization=False)
    save_file(state, "good.safetensors")
    for name in ("good.pth", "old.pth", "good.safetensors"):
        assert read_weight_file(Path(name)).keys() == state.keys()
    source = folder(**{f"cat/{i}": good for i in range(10)})
    assert source.train.picture(0).shape == (3, 16, 16)
