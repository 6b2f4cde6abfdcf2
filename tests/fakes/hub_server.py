"""The Hugging Face hub as a small HTTP server: datasets, large files, commits, tokens."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LARGE = (".parquet", ".png", ".safetensors")

Answer = tuple[int, Any, str | None]
"""Status, JSON and the hub's error code."""


class HubServer:
    """Answers what huggingface_hub asks of the hub when it uploads without Xet.

    Args:
        owner: Whose token `owner-token` writes to datasets of this owner; `reader-token` may only read.
    """

    def __init__(self, owner: str = "me") -> None:
        self.owner = owner
        self.datasets: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.sent: dict[str, bytes] = {}  # large files by their hash
        self.commits = 0
        self.refuse_large_after: int | None = None  # so many are taken, then the connection is refused
        self.url = ""

    def answer(self, method: str, path: str, body: bytes, token: str | None) -> Answer:
        """Answer a request as the hub does."""
        name = (re.match(r"/(?:api/)?datasets/([^/]+/[^/.]+)", path) or [None, ""])[1]
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}, None
        if method == "PUT":
            return self._take(path.rsplit("/", 1)[1], body)
        if token not in ("owner-token", "reader-token"):
            return 401, {"error": "Invalid username or password."}, None
        if method == "GET":
            return self._tree(name)
        asked = json.loads(body) if not path.endswith("/commit/main") else {}
        creates = path == "/api/repos/create"
        owner = asked.get("organization") or self.owner if creates else name.split("/")[0]
        if token != "owner-token" or owner != self.owner:
            return 403, {"error": "You don't have the rights"}, None
        if creates:
            return self._create(f"{owner}/{asked['name']}", asked)
        if path.endswith("/objects/batch"):
            return 200, {"transfer": "basic", "objects": [*map(self._wanted, asked["objects"])]}, None
        if "/preupload/" in path:
            return 200, {"files": [self._mode(one["path"]) for one in asked["files"]]}, None
        return self._commit(name, body)

    def _create(self, name: str, asked: dict[str, Any]) -> Answer:
        assert asked["type"] == "dataset"
        if asked.get("private") or asked.get("visibility") == "private":
            self.private.add(name)
        self.datasets[name] = {".gitattributes": b"*.parquet filter=lfs"}
        return 200, {"url": f"{self.url}/datasets/{name}"}, None

    def _tree(self, name: str) -> Answer:
        if name not in self.datasets:
            return 404, {"error": "Repository not found"}, "RepoNotFound"
        files = self.datasets[name]
        return (
            200,
            [{"type": "file", "path": one, "size": len(files[one]), "oid": "0"} for one in files],
            None,
        )

    def _mode(self, path: str) -> dict[str, Any]:
        mode = "lfs" if path.endswith(LARGE) else "regular"
        return {"path": path, "uploadMode": mode, "shouldIgnore": False}

    def _wanted(self, one: dict[str, Any]) -> dict[str, Any]:
        href = {"upload": {"href": f"{self.url}/large/{one['oid']}", "header": {}}}
        return one if one["oid"] in self.sent else {**one, "actions": href}

    def _take(self, oid: str, body: bytes) -> Answer:
        if self.refuse_large_after is not None and len(self.sent) >= self.refuse_large_after:
            return 413, {"error": "Payload too large"}, None
        assert hashlib.sha256(body).hexdigest() == oid
        self.sent[oid] = body
        return 200, {}, None

    def _commit(self, name: str, body: bytes) -> Answer:
        files = self.datasets[name]
        for key, value in ((one["key"], one["value"]) for one in map(json.loads, body.splitlines())):
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.sent[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        self.commits += 1
        url = f"{self.url}/datasets/{name}/commit/{self.commits}"
        return 200, {"commitUrl": url, "commitOid": str(self.commits), "success": True}, None


@contextmanager
def running(hub: HubServer) -> Iterator[HubServer]:
    """Serve it on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
            status, content, code = hub.answer(self.command, self.path.partition("?")[0], body, token)
            told = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(told)))
            if code:
                self.send_header("X-Error-Code", code)
            self.end_headers()
            self.wfile.write(told)

        do_GET = do_POST = do_PUT = handle_any  # noqa: N815 - the library's names

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
