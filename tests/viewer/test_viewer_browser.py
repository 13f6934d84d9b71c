"""The page in a real browser: filters are clicked, keys are pressed, and what models wrote does nothing."""

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from viewed_runs import HOSTILE, Asked, Wrote, rollouts, small_run, token_column, write_record, write_step

from thinkrl.viewer.export import export_page
from thinkrl.viewer.pages import Pages
from thinkrl.viewer.server import Server

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
CHROMIUM = os.environ.get("THINKRL_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium, or THINKRL_CHROMIUM")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that fails the test for an error of its script, a forbidden act, a dialog, or a request elsewhere."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(25_000)
    troubles: list[str] = []
    opened.on("pageerror", lambda error: troubles.append(f"error: {error}"))
    opened.on("dialog", lambda dialog: (troubles.append("a dialog"), dialog.dismiss()))
    opened.on(
        "console", lambda said: troubles.append(said.text) if said.type == "error" and "404" not in said.text else None
    )
    opened.on("request", lambda asked: troubles.append(asked.url) if "example.org" in asked.url else None)
    yield opened
    context.close()
    assert troubles == []


@pytest.fixture
def serve() -> Iterator[Any]:
    opened: list[Server] = []

    def start(run: Path) -> str:
        server = Server(Pages(run))
        opened.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return server.url

    yield start
    for server in opened:
        server.shutdown()
        server.server_close()


def rows(page: Any) -> list[str]:
    return [node.get_attribute("data-at") for node in page.query_selector_all("#list a.row")]


def until(page: Any, expression: str, arg: Any = None) -> None:
    """Waits for an expression to be true; asked from outside, as the page's policy forbids to evaluate one inside."""
    end = time.monotonic() + 25
    while not page.evaluate(expression, arg):
        assert time.monotonic() < end, (expression, arg, page.inner_text("#status"), page.url)
        page.wait_for_timeout(30)


def settled(page: Any, total: str) -> None:
    until(page, "words => document.getElementById('status').textContent.startsWith(words)", arg=total)


def test_browsing_by_clicks_and_keys(page: Any, serve: Any, tmp_path: Path) -> None:
    page.goto(serve(small_run(tmp_path / "run")))
    settled(page, "6 responses")
    assert rows(page) == [f"2.{n}" for n in range(6)], "the last step of training"
    page.wait_for_selector("#response h2")
    assert page.inner_text("#response h2") == "Step 2, prompt sum1"
    assert page.inner_text("pre.text .answer") == "2"
    page.select_option("#show", "wrong_rewarded")
    settled(page, "1 response of 6")
    assert rows(page) == ["2.1"]
    until(page, "document.querySelector('#response').textContent.includes('3 is not 2')")
    page.keyboard.press("f")
    page.wait_for_selector('#list a.row[data-at="2.3"]')  # the status of both is the same words
    settled(page, "1 response of 6")  # correct but not rewarded
    assert rows(page) == ["2.3"]
    page.goto(page.url.split("#")[0] + "#step=all")
    settled(page, "12 responses")
    page.keyboard.press("j")
    page.keyboard.press("j")
    until(page, "location.hash.includes('at=1.2')")
    page.keyboard.press("n")
    until(page, "location.hash.includes('at=1.4')")
    page.keyboard.press("c")
    page.wait_for_selector("pre.coloured [data-token='0']")
    page.keyboard.press("/")
    page.keyboard.type("NO IDEA")
    settled(page, "2 responses of 12")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert page.is_visible("dialog#keys")


def test_an_address_is_a_link_to_what_it_shows(page: Any, serve: Any, tmp_path: Path) -> None:
    url = serve(small_run(tmp_path / "run"))
    page.goto(url + "#stage=0_rl&step=1&show=wrong&order=lowest_reward&at=1.5&colour=entropies")
    page.wait_for_selector("pre.coloured")
    assert rows(page) == ["1.4", "1.5", "1.1"]
    assert page.get_attribute("#list a.row[aria-current]", "data-at") == "1.5"
    assert page.input_value("#show") == "wrong"
    page.hover("pre.text [data-token='2']")
    assert "Token 2" in page.inner_text("p.token")
    assert "entropy 1" in page.inner_text("p.token")
    page.click("text=This prompt at every step")
    settled(page, "4 responses of 12")
    page.go_back()
    settled(page, "3 responses of 6")


def hostile_run(folder: Path) -> Path:
    run = write_record(folder)
    wrote = [Wrote(text, note=text, given=[text[:9]]) for text in HOSTILE]
    asked = [Asked(text, HOSTILE[1], wrote, text, {text: text}) for text in HOSTILE[:2]]
    held = rollouts(1, asked)
    write_step(run, "0_rl", 1, asked, **{f"{HOSTILE[0]}_weights": token_column(held), HOSTILE[1]: [HOSTILE[2]] * 14})
    (run / "stages/0_rl/search").mkdir()

    tree = json.dumps({HOSTILE[0]: HOSTILE[1], "root": {"text": HOSTILE[1], HOSTILE[2]: HOSTILE[3], "children": []}})
    (run / "stages/0_rl/search/t.json").write_text(tree)
    return run


def unharmed(page: Any) -> None:
    assert page.evaluate("window.stung") is None
    assert "stung" not in page.title() or "<script>" in page.title()
    assert (
        page.evaluate(
            "document.querySelectorAll('iframe, base, svg, form:not(#controls), #list script, #response script').length"
        )
        == 0
    )
    assert page.evaluate("[...document.querySelectorAll('a')].every(a => a.getAttribute('href').startsWith('#'))")
    assert page.evaluate(
        "[...document.querySelectorAll('*')].every(n => ![...n.attributes].some(a => a.name.startsWith('on')))"
    )
    assert page.is_visible("#list")


@pytest.mark.parametrize("exported", [False, True])
def test_what_models_wrote_does_nothing(page: Any, serve: Any, tmp_path: Path, exported: bool) -> None:
    run = hostile_run(tmp_path / "run")
    if exported:
        export_page(Pages(run), tmp_path / "out")
    page.goto((tmp_path / "out" / "index.html").as_uri() if exported else serve(run))
    settled(page, "14 responses")
    for number, text in enumerate(HOSTILE):
        page.evaluate("at => { location.hash = '#at=' + at + '&colour=entropies' }", f"1.{number}")
        until(page, "at => document.querySelector('a.row[aria-current]')?.dataset.at === at", arg=f"1.{number}")
        begins = text.replace("\u2028", "[U+2028]").replace("\u2029", "[U+2029]")[:20]
        until(page, "text => document.querySelector('pre.coloured')?.textContent.startsWith(text)", arg=begins)
        unharmed(page)
    page.evaluate("location.hash = '#tree=t'")
    page.wait_for_selector("ol.tree")
    unharmed(page)


def test_an_export_works_as_files_with_filters_orders_and_search(page: Any, tmp_path: Path) -> None:
    export_page(Pages(small_run(tmp_path / "run")), tmp_path / "out")
    page.goto((tmp_path / "out" / "index.html").as_uri())
    settled(page, "6 responses")
    page.select_option("#show", "correct")
    settled(page, "2 responses of 6")
    page.select_option("#order", "lowest_advantage")
    until(page, "location.hash.includes('lowest_advantage')")
    until(page, "document.querySelector('a.row')?.dataset.at === '2.3'")
    assert rows(page) == ["2.3", "2.0"]
    page.goto(page.url.split("#")[0] + "#step=all&find=never%20STOP")
    settled(page, "2 responses of 12")
    page.wait_for_selector("text=I never stop thinking")
    assert "export of 16 of 16 responses" in page.inner_text("#outcome")


def test_a_very_long_response_comes_in_parts(page: Any, serve: Any, tmp_path: Path) -> None:
    run = write_record(tmp_path / "run")
    write_step(run, "0_rl", 1, [Asked("p", "?", [Wrote("word 😀 " * 1_000 + "more words " * 49_000 + "the end")])])
    page.goto(serve(run) + "#at=1.0&colour=entropies")
    page.wait_for_selector("pre.coloured [data-token='2999']")
    assert page.query_selector("[data-token='90000']") is None
    page.click("text=More of this response")
    page.wait_for_selector("pre.coloured [data-token='3001']", state="attached")
    page.evaluate("location.hash = '#at=1.0'")
    until(page, "document.querySelector('pre.text:not(.coloured)')?.textContent.length > 15_000")
    before = page.evaluate("document.querySelector('pre.text').textContent.length")
    assert before < 100_000
    page.click("text=More of this response")
    until(page, "before => document.querySelector('pre.text').textContent.length > before", arg=before)


def test_a_run_that_goes_on_and_one_that_kept_nothing(page: Any, serve: Any, tmp_path: Path) -> None:
    page.goto(serve(write_record(tmp_path / "empty", end="", status="running")))
    settled(page, "This run has kept no responses yet.")
    assert "still running" in page.inner_text("#outcome")
    run = small_run(tmp_path / "run")
    (run / "stages/0_rl/rollouts/000002.parquet").write_bytes(b"PAR1")
    page.goto(serve(run))
    until(page, "document.getElementById('status').textContent.includes('is not a rollout file')")


def test_on_a_narrow_screen_list_and_response_take_turns(browser: Any, serve: Any, tmp_path: Path) -> None:
    context = browser.new_context(viewport={"width": 400, "height": 800})
    page = context.new_page()
    page.goto(serve(small_run(tmp_path / "run")))
    settled(page, "6 responses")
    assert not page.is_visible("#response")
    page.click("#list a.row >> nth=1")
    page.wait_for_selector("#response h2")
    assert not page.is_visible("#list")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.click("text=‹ List")
    page.wait_for_selector("#list", state="visible")
    context.close()
