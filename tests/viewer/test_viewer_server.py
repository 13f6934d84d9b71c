"""The server answers its own host name and its secret, reads only, and says nothing that a browser would run."""

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from viewed_runs import HOSTILE, Asked, Wrote, small_run, write_step

from thinkrl.config.component import ConfigError
from thinkrl.viewer.pages import Pages
from thinkrl.viewer.server import SCRIPTS, Server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    run = small_run(tmp_path / "run")
    write_step(run, "0_rl", 3, [Asked(HOSTILE[0], HOSTILE[1], [Wrote(text, note=text) for text in HOSTILE])])
    with Server(Pages(run)) as served:
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield served
        served.shutdown()
        thread.join(5)


Answer = tuple[int, dict[str, str], bytes]


def ask(server: Server, path: str, method: str = "GET", host: str | None = None) -> Answer:
    """path: below the secret, unless it begins with a slash."""
    parts = urlsplit(server.url)
    connection = http.client.HTTPConnection("127.0.0.1", parts.port, timeout=10)
    connection.putrequest(method, path if path.startswith("/") else parts.path + path, skip_host=True)
    for name in (parts.netloc if host is None else host).split("\n"):
        if name:
            connection.putheader("Host", name)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), body


def test_the_page_and_its_data(server: Server) -> None:
    status, headers, body = ask(server, "")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert b'<script src="viewer.js">' in body
    for name in (*SCRIPTS, "viewer.css"):
        assert ask(server, name)[0] == 200
        assert name.encode() in body
    run = json.loads(ask(server, "run")[2])
    assert [stage["key"] for stage in run["stages"]] == ["0_rl", "1_after"]
    listing = json.loads(ask(server, "list?stage=0_rl&step=2&show=correct&order=lowest_advantage")[2])
    assert [row["row"] for row in listing["rows"]] == [3, 0]
    found = json.loads(ask(server, "list?stage=0_rl&find=never+stop")[2])
    assert [(row["step"], row["row"]) for row in found["rows"]] == [(1, 2), (2, 2)]
    detail = json.loads(ask(server, "response?stage=0_rl&step=2&row=1")[2])
    assert detail["parts"][0]["note"] == "3 is not 2"


@pytest.mark.parametrize(
    "host", ["example.org", "127.0.0.1.example.org", "localhost.example.org:80", "", "127.0.0.1:80:80", "127.0.0.1:x",
             "0.0.0.0", "[::1]", "127.0.0.1\nexample.org", "example.org\n127.0.0.1"],
)  # fmt: skip
def test_other_host_names_are_refused(server: Server, host: str) -> None:
    status, _, body = ask(server, "run", host=host)
    assert status == 403
    assert b"stages" not in body


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST:1234", "127.0.0.1:9"])
def test_its_own_names_are_answered_whatever_port_was_forwarded(server: Server, host: str) -> None:
    assert ask(server, "run", host=host)[0] == 200


@pytest.mark.parametrize(
    "path", ["/", "//", "/run", "/list?stage=0_rl", "/x/run", "/viewer.js", "/%2e%2e/run", "/%C3%A9/run"]
)
def test_without_the_secret_there_is_nothing(server: Server, path: str) -> None:
    status, _, body = ask(server, path)
    assert status == 404
    assert b"stages" not in body
    assert server.token.encode() not in body


def test_half_a_secret_is_none(server: Server) -> None:
    for token in (server.token[:-1], server.token + "x", server.token.swapcase()):
        assert ask(server, f"/{token}/run")[0] == 404
    assert len(server.token) >= 32


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_nothing_but_reading(server: Server, method: str) -> None:
    status, headers, _ = ask(server, "run", method)
    assert status == 501
    assert "script-src 'self'" in headers["Content-Security-Policy"]


def test_a_head_has_no_body(server: Server) -> None:
    status, headers, body = ask(server, "run", "HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 100


@pytest.mark.parametrize("path", ["", "run", "viewer.js", "nowhere", "/"])
def test_every_answer_forbids_what_is_not_the_pages_own(server: Server, path: str) -> None:
    _, headers, _ = ask(server, path)
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["form-action"] == policy["base-uri"] == "'none'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"
    assert "Access-Control-Allow-Origin" not in headers
    assert headers["Content-Type"].split(";")[0] != "text/html" or path == ""


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("list", 404), ("list?stage=9_x", 404), ("list?stage=0_rl&step=77", 404), ("list?stage=0_rl&step=x", 400),
        ("list?stage=0_rl&show=nice", 400), ("list?stage=0_rl&page=-1", 400), ("list?stage=0_rl&page=99", 200),
        ("response?stage=0_rl&step=1&row=99", 404), ("response?stage=0_rl&step=1", 400),
        ("list?stage=../../etc", 404), ("tree?stage=0_rl&name=../../run", 404), ("tree?stage=0_rl&name=x", 404),
        ("../run.json", 404), ("run.json", 404), ("..%2frun.json", 404), ("index.html", 404), ("nowhere", 404),
    ],
)  # fmt: skip
def test_strange_questions_have_plain_answers(server: Server, path: str, status: int) -> None:
    found, headers, body = ask(server, path)
    assert found == status
    assert b"Traceback" not in body
    assert headers["Content-Type"].startswith(("application/json", "text/plain"))


def test_what_models_wrote_travels_as_json_alone(server: Server) -> None:
    for path in ("list?stage=0_rl&step=3", *(f"response?stage=0_rl&step=3&row={row}" for row in range(len(HOSTILE)))):
        status, headers, body = ask(server, path)
        assert (status, headers["Content-Type"]) == (200, "application/json")
        assert body.isascii()
    texts = [json.loads(ask(server, f"response?stage=0_rl&step=3&row={row}")[2])["text"] for row in range(len(HOSTILE))]
    assert tuple(texts) == HOSTILE


def test_a_port_that_is_taken_is_said(server: Server) -> None:
    with pytest.raises(ConfigError, match="--port: cannot listen"):
        Server(server.pages, port=server.server_address[1])


def test_viewing_changes_nothing_in_the_run(server: Server, tmp_path: Path) -> None:
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file()}
    for path in ("run", "list?stage=0_rl", "list?stage=0_rl&find=a&order=longest", "response?stage=0_rl&step=1&row=0"):
        assert ask(server, path)[0] == 200
    assert before == {
        path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file()
    }
