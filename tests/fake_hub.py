"""Stands in for the Hugging Face hub: what huggingface_hub asks of its HTTP interface to make a model and put files into it, on this machine."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_abcdefghijklmnopqrstuvwxyz"


class Hub:
    """refusals: path's beginning -> (status, headers) with which it is refused."""

    def __init__(self, refusals: dict[str, tuple[int, dict[str, str]]]):
        self.refusals = refusals
        self.asked: list[str] = []
        self.tokens: set[str | None] = set()
        self.models: dict[str, dict] = {}  # name -> what it was made with
        self.branches: list[str] = []
        self.files: dict[str, dict[str, bytes]] = {}  # branch -> path -> content
        self.large: dict[str, bytes] = {}  # sha256 -> content
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.address = f"http://127.0.0.1:{self.http.server_port}"

    def answer(self, path: str, body: bytes) -> object:
        """What a POST is answered with."""
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.models[name] = asked
            return {"url": f"{self.address}/{name}"}
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if "/branch/" in path:
            self.branches.append(path.rpartition("/")[2])
            return {}
        if "/preupload/" in path:
            kinds = {True: "lfs", False: "regular"}
            files = [one["path"] for one in json.loads(body)["files"]]
            return {"files": [{"path": name, "uploadMode": kinds[name.endswith(".safetensors")], "shouldIgnore": False} for name in files]}
        if path.endswith("/info/lfs/objects/batch"):
            found = [{"oid": one["oid"], "size": one["size"]} for one in json.loads(body)["objects"]]
            return {"objects": [one | {"actions": {"upload": {"href": f"{self.address}/large/{one['oid']}"}}} for one in found]}
        if "/commit/" in path:
            return self.commit(path, body)
        raise AssertionError(f"the hub was asked for {path}")

    def commit(self, path: str, body: bytes) -> object:
        model, _, branch = path.removeprefix("/api/models/").partition("/commit/")
        files = self.files.setdefault(branch, {})
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
        return {"success": True, "commitOid": "0" * 40, "commitUrl": f"{self.address}/{model}/commit/{'0' * 40}"}


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.reply(lambda path, body: hub.answer(path, body))

        def do_GET(self) -> None:
            self.reply(lambda path, body: {"id": path, "siblings": []})

        def do_PUT(self) -> None:
            self.reply(lambda path, body: hub.large.update({path.rpartition("/")[2]: body}) or {})

        def reply(self, answer) -> None:
            path, body = self.path.partition("?")[0], self.body()
            hub.asked.append(f"{self.command} {path}")
            hub.tokens.add(self.headers.get("Authorization"))
            status, headers = next((found for start, found in hub.refusals.items() if path.startswith(start)), (200, {}))
            content = json.dumps({"error": "refused"} if status >= 400 else answer(path, body)).encode()
            self.send_response(status)
            for name, value in ({"Content-Type": "application/json", "Content-Length": str(len(content))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            return found

        def log_message(self, *arguments: object) -> None:
            pass

    return Handler


@contextlib.contextmanager
def serving(refusals: dict[str, tuple[int, dict[str, str]]] | None = None) -> Iterator[Hub]:
    hub = Hub(refusals or {})
    thread = threading.Thread(target=hub.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        hub.http.shutdown()
        thread.join()
        hub.http.server_close()
