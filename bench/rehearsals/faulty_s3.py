"""An S3-speaking server whose answers can be slow, wrong or broken off, as those of a network are.

python -m bench.rehearsals.faulty_s3 PORT LATENCY_MS FAULTS

FAULTS is the share of answers that are bad: a third of them 503 SlowDown, a third 500, a third broken off.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

_REFUSALS = {"503 Service Unavailable": "SlowDown", "500 Internal Server Error": "InternalError"}


class Faulty:
    """A WSGI application around another one."""

    def __init__(self, app: Callable[..., Iterable[bytes]], latency_s: float, faults: float) -> None:
        self._app, self._latency_s, self._faults, self._random = app, latency_s, faults, random.Random(0)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        time.sleep(self._latency_s * self._random.uniform(0.5, 1.5))
        fault = self._random.random() / self._faults if self._faults else 1.0
        if fault < 2 / 3:
            status = list(_REFUSALS)[int(fault * 3)]
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            body = f"<Error><Code>{_REFUSALS[status]}</Code><Message>injected</Message></Error>".encode()
            start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
            return [body]
        answer = b"".join(self._app(environ, start_response))
        return [answer[: len(answer) // 2] if fault < 1 else answer]  # the length stays that of the whole


@contextmanager
def server(port: int, latency_ms: float = 0.0, faults: float = 0.0) -> Iterator[str]:
    """Run one in a process of its own, for the block, and give its address."""
    command = [sys.executable, "-m", "bench.rehearsals.faulty_s3", str(port), str(latency_ms), str(faults)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        while not _answers(address):
            time.sleep(0.1)
        yield address
    finally:
        process.kill()
        process.wait()


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(f"{address}/moto-api/", timeout=5)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def main() -> None:
    from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import run_simple

    port, latency_ms, faults = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    app = Faulty(DomainDispatcherApplication(create_backend_app), latency_ms / 1000, faults)
    run_simple("127.0.0.1", port, app, threaded=True, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    main()
