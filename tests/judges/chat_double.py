"""A chat server on this machine that behaves as it is told."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Behaviour = Callable[["Answering", dict[str, Any], int], None]
"""Answers one request: the handler, the body, and how many requests with the same last turn came before."""


class Answering(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: "Double"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            asked = body["messages"][-1]["content"]
            before = self.server.counts.get(asked, 0)
            self.server.counts[asked] = before + 1
            self.server.bodies.append(body)
            self.server.headers.append(dict(self.headers))
            self.server.under_way += 1
            self.server.most_under_way = max(self.server.most_under_way, self.server.under_way)
        try:
            self.server.behaviour(self, body, before)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with self.server.lock:
                self.server.under_way -= 1

    def send(self, data: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def say(self, text: Any, finish: str = "stop", **choice: Any) -> None:
        message = {"role": "assistant", "content": text}
        answer = {"choices": [{"index": 0, "message": message, "finish_reason": finish, **choice}]}
        self.send(json.dumps(answer).encode())

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(2)

    def log_message(self, *arguments: Any) -> None:
        return


class Double(ThreadingHTTPServer):
    """The server, and what it was asked."""

    daemon_threads = True
    behaviour: Behaviour

    def __init__(self, behaviour: Behaviour) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.behaviour = behaviour
        self.lock = threading.Lock()
        self.counts: dict[str, int] = {}
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.under_way = self.most_under_way = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        return


@contextmanager
def serving(behaviour: Behaviour) -> Iterator[Double]:
    """A server that answers by `behaviour` while the block runs."""
    with Double(behaviour) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(5)


def echo(handler: Answering, body: dict[str, Any], before: int) -> None:
    """Says the question back."""
    handler.say(f"Score: {body['messages'][-1]['content']}")


def drip(handler: Answering, seconds: float) -> None:
    """Sends a byte now and then, so that no single read ever waits long."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.02)
