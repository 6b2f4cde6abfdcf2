"""A store that fails now and then: it hands requests on to a whole one, but for a list of faults."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

LATE_S = 0.3
_ANSWERS = {
    "500": (500, "InternalError"),
    "503": (503, "SlowDown"),
    "full": (403, "QuotaExceeded"),
    "507": (507, "InsufficientStorage"),
    "denied": (403, "AccessDenied"),
}


class FailingStore(AbstractContextManager["FailingStore"]):
    """A server in front of another one.

    Faults are: an answer of `_ANSWERS`, "reset" (the connection breaks before anything is done), "lost
    answer" (it breaks once all is done), "late", and "" for none. Once the list is used up all requests are
    handed on.

    Args:
        behind: Address of the whole store.
    """

    def __init__(self, behind: str) -> None:
        self.faults: list[str] = []
        self.requests = 0
        self._taking = threading.Lock()
        store, host = self, urlsplit(behind).netloc

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                store._answer(self, host, body)

            def log_message(self, *_: Any) -> None:
                pass

        for method in ("GET", "PUT", "HEAD", "POST", "DELETE"):
            setattr(Handler, f"do_{method}", Handler.handle_any)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler, host: str, body: bytes) -> None:
        with self._taking:
            self.requests += 1
            fault = self.faults.pop(0) if self.faults else ""
        if fault == "reset":
            _break(request)
            return
        if fault in _ANSWERS:
            status, code = _ANSWERS[fault]
            _send(
                request, status, {}, f"<Error><Code>{code}</Code><Message>{fault}</Message></Error>".encode()
            )
            return
        if fault == "late":
            time.sleep(LATE_S)
        behind = http.client.HTTPConnection(host)
        behind.request(request.command, request.path, body, dict(request.headers.items()))
        answer = behind.getresponse()
        content = answer.read()
        if fault == "lost answer":
            _break(request)
            return
        _send(request, answer.status, dict(answer.getheaders()), content)


def _break(request: BaseHTTPRequestHandler) -> None:
    request.close_connection = True
    request.connection.shutdown(socket.SHUT_RDWR)


def _send(request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], content: bytes) -> None:
    request.send_response(status)
    of_length = {"Content-Length"} & headers.keys() and request.command == "HEAD"
    for name, value in headers.items():
        if name.lower() not in ("connection", "transfer-encoding", "date", "server", "content-length"):
            request.send_header(name, value)
    request.send_header("Content-Length", headers["Content-Length"] if of_length else str(len(content)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(content)
