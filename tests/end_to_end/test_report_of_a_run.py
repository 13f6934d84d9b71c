"""The page that a real run leaves."""

from pathlib import Path

from typer.testing import CliRunner

from thinkrl.cli.app import app


def test_a_run_leaves_its_page(undisturbed: Path) -> None:
    html = (undisturbed / "report.html").read_text(encoding="utf-8")
    for said in (
        "quickstart, seed 0",
        "after_grpo",
        "Reward part: true_steps",
        "Sampler/learner mismatch",
        "Smoke scale",
    ):
        assert said in html
    assert 'class="chart"' in html
    assert "Not finished" not in html
    # Making it again from what the run left gives the same page but for the time.
    (undisturbed / "report.html").unlink()
    done = CliRunner().invoke(app, ["report", str(undisturbed)])
    assert done.exit_code == 0, done.output

    def body(page: str) -> str:
        return page.partition("</header>")[2]

    again = (undisturbed / "report.html").read_text(encoding="utf-8")
    assert len(body(again)) == len(body(html))
