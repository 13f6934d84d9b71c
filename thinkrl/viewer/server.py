"""The page on this machine alone: 127.0.0.1, a secret in the address, nothing but reading.

What keeps others out: the server listens on the loopback interface; a request must name it by its own host name (a
page of another site that had its name point here is refused), and must begin with a secret that is compared in constant
time. What keeps model output from doing anything: it travels as JSON, becomes text nodes, and a policy forbids every
script but the page's own.
"""

import hmac
import json
import secrets
import sys
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import parse_qs, urlsplit

from thinkrl.config.component import ConfigError, UserError
from thinkrl.viewer.finding import Query
from thinkrl.viewer.pages import Pages

HOSTS = ("127.0.0.1", "localhost")
SCRIPTS = ("elements.js", "source.js", "response.js", "viewer.js")
"""The page's scripts, in the order in which they are loaded."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
_HEADERS = {
    "Content-Security-Policy": POLICY + "; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_IDLE_SECONDS = 30
_PLAIN = "text/plain"
_JSON = "application/json"


class Server(ThreadingHTTPServer):
    """Serves one run at `url` until it is shut down."""

    daemon_threads = True

    def __init__(self, pages: Pages, port: int = 0, token: str | None = None) -> None:
        """port: 0 for a free one. Raises ConfigError when the port is taken."""
        self.pages = pages
        self.token = token or secrets.token_urlsafe(24)
        try:
            super().__init__((HOSTS[0], port), _Handler)
        except (OSError, OverflowError) as error:
            raise ConfigError(f"--port: cannot listen on {HOSTS[0]}:{port} ({error})") from error

    @property
    def url(self) -> str:
        """The address of the page, with its secret."""
        return f"http://{HOSTS[0]}:{self.server_address[1]}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of browsers that went away; anything else is a fault of this program, and is shown."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: Server
    server_version = "thinkrl"
    sys_version = ""
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_SECONDS
    error_content_type = _PLAIN
    error_message_format = "%(code)d\n"

    def do_GET(self) -> None:
        """Answers a request; what is wrong with one is said without repeating anything of it."""
        if not _own_host(self.headers.get_all("Host") or []):
            return self._send(403, _PLAIN, b"This server answers its own host name only.\n")
        parts = urlsplit(self.path)
        token, _, rest = parts.path.removeprefix("/").partition("/")
        if not hmac.compare_digest(token.encode("utf-8", "replace"), self.server.token.encode()):
            return self._send(404, _PLAIN, b"Not here. The whole address, with its secret, is in the terminal.\n")
        if rest in ("", *SCRIPTS, "viewer.css"):
            name = rest or "index.html"
            return self._send(200, _KINDS[name[name.rindex(".") :]], page_file(name).encode())
        answer = _ANSWERS.get(rest)
        if answer is None:
            return self._send(404, _PLAIN, b"There is no such page.\n")
        status, value = _answered(answer, self.server.pages, parts.query)
        return self._send(status, _JSON, json.dumps(value, allow_nan=False).encode())

    do_HEAD = do_GET

    def end_headers(self) -> None:
        """Adds what every answer says, refusals too."""
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a log would hold the secret."""

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind if kind == _JSON else f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def page_file(name: str) -> str:
    """A file of the page."""
    return resources.files("thinkrl.viewer.page").joinpath(name).read_text(encoding="utf-8")


def _own_host(hosts: list[str]) -> bool:
    """Whether a request names this machine's own loopback, once. Ports are not compared: one may be forwarded."""
    if len(hosts) != 1:
        return False
    name, colon, port = hosts[0].strip().lower().partition(":")
    return name in HOSTS and (not colon or port.isdigit())


Given = Mapping[str, str]
_Answer = Callable[[Pages, Given], Any]


def _answered(answer: _Answer, pages: Pages, query: str) -> tuple[int, Any]:
    """Status and JSON value. A file that surprises its reader is said on the page, which goes on."""
    try:
        given = {name: values[-1] for name, values in parse_qs(query, max_num_fields=20).items()}
        return 200, answer(pages, given)
    except LookupError as error:
        return 404, {"error": str(error.args[0]) if error.args else "not there"}
    except (UserError, OSError) as error:
        return 500, {"error": str(error)}
    except Exception as error:
        return 400 if isinstance(error, ValueError) else 500, {"error": f"{type(error).__name__}: {error}"}


def _query(given: Given) -> Query:
    step = given.get("step", "")
    return Query(
        stage=given.get("stage", ""),
        step=int(step) if step else None,
        prompt=given.get("prompt", ""),
        group=given.get("group", ""),
        mark=given.get("show", "all"),
        order=given.get("order", "stored"),
        text=given.get("find", ""),
        page=int(given.get("page", "0")),
    )


_ANSWERS: dict[str, _Answer] = {
    "run": lambda pages, given: pages.overview(),
    "list": lambda pages, given: pages.listing(_query(given)),
    "response": lambda pages, given: pages.response(
        given.get("stage", ""), int(given.get("step", "")), int(given.get("row", ""))
    ),
    "tree": lambda pages, given: pages.trees(given.get("stage", ""), given.get("name", "")),
}
