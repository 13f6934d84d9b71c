"""The page: it loads nothing, runs nothing, and shows what models wrote as text."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from run_files import CONFIG, rl_rows, write_run
from typer.testing import CliRunner

from thinkrl.cli.app import app
from thinkrl.reports.markdown import markdown
from thinkrl.reports.numbers import duration, number
from thinkrl.reports.page.build import page
from thinkrl.reports.page.drawing import ticks
from thinkrl.reports.page.elements import element, text
from thinkrl.reports.report import make_report
from thinkrl.reports.writing import json_text

HOSTILE = (
    "<script>alert(1)</script>", "</pre></article><img src=x onerror=alert(1)>", '"><svg/onload=alert(1)>',
    "</style><style>*{display:none}", "<!--", "]]>", "&lt;b&gt;", "\x00\x1b[31m\u202egnp.exe", "```\n<b>x</b>\n````",
    "<a href=javascript:alert(1)>", "{{7*7}}", "<iframe src=//example.org>",
)  # fmt: skip
VOID = {"meta", "rect", "line", "path", "circle", "br"}


class Reader(HTMLParser):
    """Every tag with its attributes, the text of the page, and whether tags are closed in order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


def hostile_run(folder: Path, texts: tuple[str, ...] = HOSTILE) -> Path:
    config = {
        **CONFIG,
        "name": HOSTILE[0],
        "deviations": list(HOSTILE),
        "paper": {"title": HOSTILE[1], "arxiv": '"><script>', "summary": HOSTILE[2]},
        "learner": {"learning_rate": HOSTILE[3]},
    }
    rows = rl_rows([0.1, 0.5], **{"reward/<script>alert(2)</script>/contribution": [0.1, 0.2], HOSTILE[1]: [1.0, 2.0]})
    return write_run(
        folder, config=config, rows=rows, texts=texts, record={"recipe": HOSTILE[0], "overrides": [HOSTILE[1]]}
    )


def test_nothing_is_loaded_and_nothing_runs(tmp_path: Path) -> None:
    reader = read(page(make_report([hostile_run(tmp_path / "run")])))
    tags = {tag for tag, _ in reader.tags}
    assert not tags & {"script", "img", "iframe", "object", "embed", "link", "base", "form"}
    for tag, attributes in reader.tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "srcset", "style")]
        if tag == "a":
            assert (attributes["href"] or "").startswith(("#", "https://arxiv.org/abs/"))
    (policy,) = [
        a["content"] for t, a in reader.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "script" not in policy


def test_what_models_wrote_is_there_as_text(tmp_path: Path) -> None:
    html = page(make_report([hostile_run(tmp_path / "run")]))
    shown = "".join(read(html).texts)
    assert "<script>alert(1)</script>" in shown
    assert HOSTILE[1] in shown
    assert "\u202e" not in html
    assert "\x00" not in html
    # Three responses are shown, and all deviations are.
    assert "[U+0000][U+001B][31m[U+202E]gnp.exe" in shown
    assert shown.count("<iframe src=//example.org>") >= 1


def test_markup_is_made_in_one_place() -> None:
    assert element("p", "<b>", title="\"'&") == '<p title="&quot;&#x27;&amp;">&lt;b&gt;</p>'
    assert element("p", element("b", "x"), None, [1, "<"]) == "<p><b>x</b>1&lt;</p>"
    assert text("\ud800") == "[U+D800]"
    assert text("a\tb\nc") == "a\tb\nc"


def test_the_page_has_every_section(tmp_path: Path) -> None:
    reader = read(page(make_report([write_run(tmp_path / "run")])))
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [
        attributes["href"] for tag, attributes in reader.tags if tag == "a" and (attributes["href"] or "")[0] == "#"
    ]
    assert {link[1:] for link in links if link} <= set(ids)
    for name in ("summary", "notices", "results", "stages", "curves", "time", "configuration", "samples"):
        assert name in ids
    shown = " ".join(reader.texts)
    for said in ("A paper", "0123456789ab", "Some CPU", "5:00 min", "75.0%", "+50.0", "1 + 1", "Reward part: sum"):
        assert said in shown
    charts = [a for t, a in reader.tags if t == "svg" and a.get("class") == "chart"]
    assert charts
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in charts)


def test_every_cell_knows_its_heading(tmp_path: Path) -> None:
    """On a narrow page a row is a card, and a cell without a label would be a bare number."""
    reader = read(page(make_report([write_run(tmp_path / "run")])))
    cells = [attributes for tag, attributes in reader.tags if tag == "td"]
    assert cells
    assert all(cell.get("data-label") for cell in cells)


def test_several_configurations_and_seeds(tmp_path: Path) -> None:
    for arm, rate in (("method", 1e-5), ("baseline", 1e-3)):
        for seed in (0, 1):
            config = {**CONFIG, "learner": {"learning_rate": rate}}
            write_run(tmp_path / "r" / arm / f"seed{seed}", seed=seed, config=config, rows=rl_rows([0.1 * seed, 0.5]))
    html = page(make_report([tmp_path / "r"]))
    reader = read(html)
    classes = [attributes.get("class") or "" for _, attributes in reader.tags]
    assert "band c0" in classes
    assert "band c1" in classes
    assert "override learner.learning_rate=1e-5" in " ".join(reader.texts)


def claimed(tmp_path: Path) -> Path:
    folder = tmp_path / "reproduce"
    for arm, rate in (("method", 1e-5), ("baseline", 1e-3)):
        write_run(folder / arm / "seed0", config={**CONFIG, "learner": {"learning_rate": rate}})
    check = {
        "statement": "it is shorter", "metric": "response_tokens", "compare": "ratio", "at_least": None, "at_most": 0.9,
        "arm": "method", "against": "baseline", "stage": None, "against_stage": None, "verdict": "not reproduced",
        "paper": {"value": "3520 against 10177", "source": "table 1"}, "means": [95.0, 100.0],
        "value": 0.95, "low": 0.92, "high": 0.97, "per_seed": [0.95],
    }  # fmt: skip
    record = {
        "recipe": "demo", "claim": "Shorter thinking.", "verdict": "not reproduced",
        "analysis": "The world is too easy.",
        "seeds": [0], "arms": {"method": [], "baseline": ["learner.learning_rate=1e-3"]}, "commits": ["abc"],
        "minutes": {"method": {"0": 2.5}, "baseline": {"0": 1.0}}, "unequal": [], "checks": {"shorter": check},
        "spent": {"method": {"prompts": 24.0}, "baseline": {"prompts": 24.0}},
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(record))
    return folder


def test_verdicts_stand_beside_the_papers_numbers(tmp_path: Path) -> None:
    folder = claimed(tmp_path)
    for report in (make_report([folder]), make_report([folder / "method" / "seed0", folder / "baseline" / "seed0"])):
        shown = " ".join(read(page(report)).texts)
        for said in ("Shorter thinking.", "not reproduced", "3520 against 10177", "95 against 100", "0.92 to 0.97",
                     "The world is too easy.", "response_tokens ratio <= 0.9", "2:30 min"):  # fmt: skip
            assert said in shown
    (folder / "results.json").write_text("{}")
    assert make_report([folder]).claim is None


def test_markdown_cannot_be_broken_out_of(tmp_path: Path) -> None:
    said = markdown(make_report([hostile_run(tmp_path / "run", (HOSTILE[8], HOSTILE[0]))]))
    assert HOSTILE[8] in said
    outside = []
    fence = ""
    for line in said.splitlines():
        match = re.fullmatch(r"`{3,}", line)
        if match and (not fence or line == fence):
            fence = "" if fence else line
        elif not fence:
            outside.append(line)
    assert fence == ""
    assert not [line for line in outside if re.search(r"<\w|<!|</", line)]


def test_json_holds_everything(tmp_path: Path) -> None:
    made = json.loads(json_text(make_report([write_run(tmp_path / "run")])))
    assert made["curves"]["rl"]["reward"][0]["mean"] == [0.1, 0.3, 0.5, 0.7]
    assert made["curves"]["rl"]["reward"][0]["low"] == ["NaN"] * 4
    assert made["evaluations"][1]["accuracy"]["value"] == 0.75


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.25, 0.5, 0.75, 1]), (1, 60, [20, 40, 60]), (0.013, 0.029, [0.015, 0.02, 0.025]), (3, 3, [3])],
)
def test_ticks_are_round_numbers_inside(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_numbers_for_people() -> None:
    assert [number(v) for v in (0.8125, 1e-5, 2026.0, float("nan"), None, 0.0)] == [
        "0.8125",
        "1e-05",
        "2026",
        "–",
        "–",
        "0",
    ]
    assert [duration(v) for v in (0.21, 14.2, 59.6, 185.0, 5000.0, 200000.0)] == [
        "0.21 s", "14 s", "1:00 min", "3:05 min", "1.4 h", "2.3 days"]  # fmt: skip


def invoke(*args: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["report", *args])
    return done.exit_code, done.output


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = write_run(tmp_path / "run")
    assert invoke("run") == (0, f"wrote {Path('run') / 'report.html'}\n")
    assert invoke("run")[0] == 0, "its own page is made anew"
    assert (run / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert invoke("run", "--format", "md")[1].startswith("# demo, seed 0")
    assert json.loads(invoke("run", "--format", "json")[1])["title"] == "demo, seed 0"
    (tmp_path / "mine.html").write_text("my own page")
    code, said = invoke("run", "--output", "mine.html")
    assert (code, (tmp_path / "mine.html").read_text()) == (2, "my own page")
    assert "is no report" in " ".join(said.split())
    assert invoke("nowhere")[0] == 2
    assert invoke("run/stages")[0] == 2
    assert invoke("run", "--format", "png")[0] == 2


def test_a_long_run_takes_under_two_seconds_and_no_torch(tmp_path: Path) -> None:
    columns = {f"reward/term{n}/{part}": [0.1 * n + s for s in range(100)]
               for n in range(6) for part in ("value", "contribution", "weight")}  # fmt: skip
    run = write_run(tmp_path / "run", rows=rl_rows([s / 100 for s in range(100)], **columns))
    program = (
        "import sys, time; from thinkrl.cli.app import app\n"
        f"app(['report', {str(run)!r}], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
        "print('cpu', time.process_time())"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert float(done.stdout.split()[-1]) < 2.0
    assert (run / "report.html").stat().st_size < 2_000_000
