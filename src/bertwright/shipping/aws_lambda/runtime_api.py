"""Lambda's Runtime API on this machine: what AWS's runtime client asks for events, to try a function without AWS.

The interface of AWS's documentation ("Using the Lambda runtime API for custom runtimes", 2018-06-01).
"""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_VERSION = "/2018-06-01/runtime"
_TIMEOUT_S = 900.0  # Lambda's longest


@dataclass
class Invocation:
    """An event and what became of it.

    Attributes:
        answer: what the function returned; ``error`` what it raised, as the runtime client tells it.
        seconds: from the moment that the client took the event to its answer.
    """

    event: bytes
    answer: Any = None
    error: Any = None
    seconds: float = 0.0
    done: threading.Event = field(default_factory=threading.Event)
    taken: float = 0.0


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A function that ends drops its connection: no reason for a traceback. Else as usual."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class RuntimeApi:
    """A server on a free port; ``address`` is what AWS_LAMBDA_RUNTIME_API holds."""

    def __init__(self) -> None:
        self.waiting: queue.Queue[Invocation] = queue.Queue()
        self.taken: dict[str, Invocation] = {}
        self.init_error: Any = None
        self.asked_first = threading.Event()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self.address = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> RuntimeApi:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def invoke(self, event: Any, timeout_s: float = 60.0) -> Invocation:
        """Hand ``event`` (a value, or bytes as they are) to the function and wait for its answer.

        Raises:
            TimeoutError: there is none.
        """
        payload = event if isinstance(event, bytes) else json.dumps(event).encode()
        made = Invocation(payload)
        self.waiting.put(made)
        if not made.done.wait(timeout_s):
            raise TimeoutError(f"no answer within {timeout_s:g} s (init error: {self.init_error})")
        return made

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else an answer of two writes waits 40 ms for the first one's receipt

            def do_GET(self) -> None:
                if self.path != f"{_VERSION}/invocation/next":
                    self._answer(404, b"{}")
                    return
                api.asked_first.set()
                made = api.waiting.get()
                name = f"request-{len(api.taken) + 1}"
                api.taken[name] = made
                made.taken = time.perf_counter()
                headers = {
                    "Lambda-Runtime-Aws-Request-Id": name,
                    "Lambda-Runtime-Deadline-Ms": str(int((time.time() + _TIMEOUT_S) * 1000)),
                    "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:us-east-1:123456789012:function:local",
                    "Lambda-Runtime-Trace-Id": "Root=1-00000000-000000000000000000000000",
                }
                self._answer(200, made.event, headers)

            def do_POST(self) -> None:
                ended = time.perf_counter()
                content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                value = json.loads(content) if content else None
                if self.path == f"{_VERSION}/init/error":
                    api.init_error = value
                    api.asked_first.set()
                    self._answer(202, b"{}")
                    return
                *_, name, what = self.path.split("/")
                made = api.taken.get(name)
                if made is None or what not in ("response", "error"):
                    self._answer(404, b"{}")
                    return
                if what == "response":
                    made.answer = value
                else:
                    made.error = value
                made.seconds = ended - made.taken
                self._answer(202, b"{}")
                made.done.set()

            def _answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
                self.send_response(status)
                for header, text in {"Content-Type": "application/json", **(headers or {})}.items():
                    self.send_header(header, text)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *arguments: Any) -> None:
                """Nothing: what the function prints is what matters."""

        return Handler
