"""Networks that timm has saved: from a folder, and from a stand-in of the Hugging Face hub on this machine."""

from __future__ import annotations

import json
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch

from distill.errors import DataError, RecipeError
from distill.models.about_weights import about_weights
from distill.models.published import published_weights
from distill.models.saved import read_config, weight_file
from distill.models.weights import load_weights
from distill.models.zoo import create_model, model_exists

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def saved(tmp_path) -> Path:
    """A network of timm's with an argument of its own and names for its classes."""
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=3, drop_rate=0.25)
    folder = tmp_path / "saved"
    config = {"label_names": ["cat", "dog", "cow"], "license": "apache-2.0"}
    timm.models.save_for_hf(model, folder, model_config=config, model_args={"drop_rate": 0.25}, safe_serialization=True)
    return folder


class _Hub(BaseHTTPRequestHandler):
    """Answers as the hub does for one file of a network."""

    def __init__(self, folder: Path, *arguments):
        self.folder = folder
        super().__init__(*arguments)

    def do_HEAD(self):
        self._answer(with_body=False)

    def do_GET(self):
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        organisation, name, _, revision, file = self.path.strip("/").split("/", 4)
        body = b""
        if organisation == "gated":
            self.send_response(403)
            self.send_header("X-Error-Code", "GatedRepo")
        elif organisation != "org":
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
        elif revision not in ("main", "v1"):
            self.send_response(404)
            self.send_header("X-Error-Code", "RevisionNotFound")
        elif name != "net" or not (self.folder / file).is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
        else:
            body = (self.folder / file).read_bytes()
            self.send_response(200)
            self.send_header("ETag", f'"{len(body)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(saved, tmp_path, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Hub, saved))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def require_is_the_saved_network(name: str) -> None:
    theirs = timm.create_model("test_resnet", num_classes=3).eval()
    torch.manual_seed(0)
    theirs.load_state_dict(timm.create_model("test_resnet", num_classes=3).state_dict())
    ours = create_model(name, num_classes=3)
    assert ours.drop_rate == 0.25
    report = load_weights(ours, name, name, num_classes=3)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(ours.eval()(images), theirs(images))
    assert (report.mean, report.image_size) == (tuple(theirs.pretrained_cfg["mean"]), theirs.pretrained_cfg["input_size"][-1])
    assert about_weights(name, name).class_names == (("cat",), ("dog",), ("cow",))


def test_a_folder_is_a_model_and_its_weights(saved):
    name = f"local-dir:{saved}"
    assert model_exists(name) is None
    require_is_the_saved_network(name)
    assert [(one.source, one.num_classes) for one in published_weights(name)] == [(name, 3)]


def test_a_folder_gives_a_network_of_other_classes(saved):
    assert create_model(f"local-dir:{saved}", num_classes=7)(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("name", ["hf-hub:org/net", "hf-hub:org/net@v1"])
def test_a_network_on_the_hub_is_fetched_once(hub, name):
    assert model_exists(name) is None
    require_is_the_saved_network(name)


def test_a_file_of_torch_save_is_taken_where_there_is_no_other(hub, saved):
    weights = weight_file(f"local-dir:{saved}")
    torch.save(create_model(f"local-dir:{saved}", num_classes=3).state_dict(), saved / "pytorch_model.bin")
    weights.unlink()
    assert weight_file(f"local-dir:{saved}").name == weight_file("hf-hub:org/net").name == "pytorch_model.bin"


@pytest.mark.parametrize(
    "name, kind, message",
    [
        ("hf-hub:gated/net", DataError, "'hf-hub:gated/net' is gated: accept its conditions at http://127.0.0.1"),
        ("hf-hub:nobody/net", RecipeError, "the hub has no such network, or it is private and you are not logged in"),
        ("hf-hub:org/net@v9", RecipeError, "the hub has no revision 'v9' of it"),
        ("hf-hub:org/other", DataError, "it has no config.json on the hub"),
        ("hf-hub:org/n et", RecipeError, "'hf-hub:org/n et': "),
    ],
)
def test_what_the_hub_refuses_is_one_clear_sentence(hub, name, kind, message):
    with pytest.raises(kind, match=message):
        read_config(name)


def test_a_hub_that_can_not_be_reached_says_what_to_fetch_and_where_to_put_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(DataError, match=r"fetch http://127.0.0.1:9/org/net/resolve/main/config.json .*local-dir:FOLDER.*HF_HOME"):
        create_model("hf-hub:org/net", num_classes=3)


@pytest.mark.parametrize(
    "name, message",
    [
        ("hf-hub:resnet50", "write hf-hub:ORGANISATION/NAME"),
        ("hf-hub:a/b/c", "write hf-hub:ORGANISATION/NAME"),
        ("local-dir:nowhere", "the folder is not there"),
        ("local-dir:.", "the folder has no config.json; timm's save_for_hf"),
    ],
)
def test_names_that_can_be_no_saved_network(name, message):
    assert message in model_exists(name)
    with pytest.raises(RecipeError):
        create_model(name, num_classes=3)


@pytest.mark.parametrize("text, message", [("{", "can't be read"), ("[]", "names no 'archi"), ('{"num_classes": 3}', "names no 'archi")])
def test_a_damaged_config_is_named(saved, text, message):
    (saved / "config.json").write_text(text)
    assert message in model_exists(f"local-dir:{saved}")


def test_an_architecture_that_timm_does_not_have_is_said(saved):
    config = json.loads((saved / "config.json").read_text()) | {"architecture": "resnet_of_tomorrow"}
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(RecipeError, match="has no architecture 'resnet_of_tomorrow'; a newer one may have it"):
        create_model(f"local-dir:{saved}", num_classes=3)


def test_a_folder_without_weights_is_said(saved):
    (saved / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"has neither model\.safetensors nor pytorch_model\.bin"):
        weight_file(f"local-dir:{saved}")
