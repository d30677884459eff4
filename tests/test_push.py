"""`distill push` against a stand-in of the hub: what arrives there is the export, and each refusal says what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
from fake_hub import TOKEN, serving

from distill import cli

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's own


@pytest.fixture(scope="module")
def student(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "student"
    assert cli.main(["export", str(runs / "ours"), "--to", "safetensors", "-o", str(folder)]) == 0
    return folder


@pytest.fixture(autouse=True)
def own_hub_settings(monkeypatch, tmp_path):
    """No test sees the user's token, and large files go by LFS, which the stand-in knows."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token-of-nobody"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_export_arrives_as_it_is(distill, student, monkeypatch):
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        code, out, err = distill("push", str(student), "me/small", "--private")
    assert code == 0, err
    assert hub.files == {"main": contents(student)}
    assert hub.models["me/small"]["visibility"] == "private"
    assert hub.tokens == {f"Bearer {TOKEN}"} | (hub.tokens & {None})  # what is sent to the store of large files needs none
    assert out.startswith(hub.address)
    assert TOKEN not in out + err


def test_run_arrives_as_a_folder_for_timm_on_a_branch(distill, runs, monkeypatch):
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        code, _, err = distill("push", str(runs / "small"), "me/small", "--revision", "trial")
    assert code == 0, err
    assert hub.branches == ["trial"]
    found = hub.files["trial"]
    assert found.keys() == {"README.md", "config.json", "export.json", "model.safetensors"}
    assert json.loads(found["config.json"])["architecture"] == "test_resnet"
    assert b"library_name: timm" in found["README.md"]
    assert json.loads(found["export.json"])["check"]["agreement"] == 1
    assert "visibility" not in hub.models["me/small"]


def test_token_comes_from_the_file_that_is_named(distill, student, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    Path("mine").write_text(f"{TOKEN}2\n")
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        code, out, err = distill("push", str(student), "me/small", "--token-file", "mine")
    assert code == 0, err
    assert f"Bearer {TOKEN}2" in hub.tokens
    assert TOKEN not in out + err


@pytest.mark.parametrize(
    "refusals, message",
    [
        ({"/api/": (401, {})}, "the hub does not know this token (401): `hf auth login`"),
        (
            {"/api/": (403, {"X-Error-Message": f"no right with {TOKEN}"})},
            "may not write to me/small (403): take a token with the right to write to me",
        ),
        ({"/api/models/": (403, {"X-Error-Code": "GatedRepo"})}, "me/small is gated, and this account has no access"),
        ({"/api/models/": (404, {"X-Error-Code": "RepoNotFound"})}, "the hub has no me/small, or no me (404): check the name"),
        ({"/api/repos/create": (400, {"X-Error-Message": "bad name"})}, "the hub does not take me/small (400)"),
        ({"/large/": (403, {})}, "may not write to me/small (403)"),
        ({"/api/repos/create": (507, {})}, "the hub answered 507 for me/small"),
    ],
)
def test_each_refusal_of_the_hub_is_one_message_without_a_token(distill, student, monkeypatch, refusals, message):
    with serving(refusals) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        code, out, err = distill("push", str(student), "me/small", "--traceback")
    assert code == 1
    assert message in err
    assert TOKEN not in out + err
    assert hub.files == {}


def test_hub_that_can_not_be_reached(distill, student, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    code, _, err = distill("push", str(student), "me/small")
    assert code == 1
    assert "http://127.0.0.1:9 can't be reached" in err


def test_nobody_is_logged_in(distill, student, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with serving({"/api/": (401, {})}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        code, _, err = distill("push", str(student), "me/small")
    assert code == 1
    assert "the hub does not know who you are (401)" in err
    assert hub.tokens == {None}


def test_only_what_an_export_wrote_is_pushed(distill, student, monkeypatch):
    shutil.copytree(student, "student")
    Path("student/private.txt").write_text("diary")
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        code, _, err = distill("push", "student", "me/small")
        assert code == 3
        assert "private.txt is not of the export" in err
        Path("student/private.txt").unlink()
        Path("student/README.md").unlink()
        code, _, err = distill("push", "student", "me/small")
    assert code == 3
    assert "README.md is missing" in err
    assert hub.asked == []


@pytest.mark.parametrize(
    "words, code, message",
    [
        (["a"], 2, "say distill push RUN|FOLDER ORG/NAME"),
        (["a", "b", "c"], 2, "say distill push RUN|FOLDER ORG/NAME"),
        (["a", "small"], 2, "'small' can't be a model's name on the hub: it is ORG/NAME"),
        (["a", "me/too--many"], 2, "can't be a model's name"),
        (["a", "me/" + "x" * 100], 2, "at most 96 letters"),
        (["nothing", "me/small"], 3, "there is no such folder"),
        (["a", "me/small", "--token-file", "nothing"], 2, "--token-file nothing: there is no such file"),
    ],
)
def test_words_that_make_no_sense(distill, words, code, message):
    found, _, err = distill("push", *words)
    assert found == code
    assert message in err


def test_student_that_timm_can_not_build_is_pushed_as_an_export(distill, runs, monkeypatch):
    from distill.handover import push

    monkeypatch.setattr(push, "why_not", lambda config: "timm has no such stem")
    code, _, err = distill("push", str(runs / "ours"), "me/small")
    assert code == 2
    assert "--to safetensors -o student && distill push student me/small" in err
