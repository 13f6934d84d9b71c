"""A report as one HTML page that needs nothing beside itself: no script, no font, no address is loaded."""

from pathlib import Path

from thinkrl.reports.numbers import duration
from thinkrl.reports.page.curves import curves_section
from thinkrl.reports.page.drawing import bar
from thinkrl.reports.page.elements import Markup, element, join
from thinkrl.reports.page.results import claim_section, results_section
from thinkrl.reports.page.samples import samples_section
from thinkrl.reports.page.summary import stages_section, summary_section
from thinkrl.reports.page.tables import Column, table
from thinkrl.reports.report import Report
from thinkrl.tracking.recorder import PARTS

GENERATOR = "thinkrl report"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""What a browser may load for the page: nothing but its own style, and no script, whatever stands in it."""
_STYLE = Path(__file__).with_name("style.css")
_MOST_SETTINGS = 300


def page(report: Report) -> str:
    """The whole page."""
    sections = [
        ("summary", "Summary", summary_section(report)),
        ("claim", "Claim", claim_section(report.claim) if report.claim else None),
        ("notices", "Warnings", notices_section(report)),
        ("results", "Held-out results", results_section(report)),
        ("stages", "Stages", stages_section(report)),
        ("curves", "Curves", curves_section(report)),
        ("time", "Time", time_section(report)),
        ("configuration", "Configuration", configuration_section(report)),
        ("samples", "Samples", samples_section(report)),
    ]
    there = [(name, title, body) for name, title, body in sections if body is not None]
    links = [element("li", element("a", title, href=f"#{name}")) for name, title, _ in there]
    body = element(
        "body",
        element("a", "Skip to the report", href="#main", class_="skip"),
        element("header", element("h1", report.title), element("p", f"Made {report.made}", class_="soft")),
        element("nav", element("ul", links), aria_label="Sections"),
        element(
            "main",
            [_section(name, title, body) for name, title, body in there],
            id="main",
        ),
        element("footer", f"thinkrl {report.version}. The numbers of every curve: metrics.jsonl of each run, and"
                          " thinkrl report --format json."),
    )  # fmt: skip
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="generator", content=GENERATOR),
        element("meta", name="referrer", content="no-referrer"),
        element("title", report.title),
        element("style", Markup(_STYLE.read_text(encoding="utf-8"))),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _section(name: str, title: str, body: Markup) -> Markup:
    heading = element("h2", title, id=f"{name}-title")
    return element("section", heading, body, id=name, aria_labelledby=f"{name}-title")


def notices_section(report: Report) -> Markup:
    """What to know before believing the curves."""
    if not report.notices:
        return element("p", "Nothing to warn of.")
    return join(
        [
            element(
                "div",
                element("b", notice.title),
                element("span", f"{notice.level}, {notice.about}"),
                element("p", notice.text),
                class_=f"notice {notice.level}",
            )
            for notice in report.notices
        ]
    )


def time_section(report: Report) -> Markup | None:
    """Seconds by part of every stage's steps."""
    lines = [line for line in report.times if sum(line.seconds.values()) > 0]
    if not lines:
        return None
    longest = max(sum(line.seconds.values()) for line in lines)
    several = len(report.configurations) > 1
    used = [part for part in PARTS if any(line.seconds[part] > 0 for line in lines)]
    key = [element("span", element("i"), part, class_=f"key box c{PARTS.index(part)}") for part in used]
    columns = [Column("stage"), *([Column("runs")] if several else []), Column("all", True), Column("by part"),
               *(Column(part, True) for part in used)]  # fmt: skip
    rows = [
        [
            line.stage,
            *([line.label] if several else []),
            duration(sum(line.seconds.values())),
            bar(line.seconds, longest),
            *(duration(line.seconds[part]) if line.seconds[part] else "" for part in used),
        ]
        for line in lines
    ]
    note = (
        "Sums over steps"
        + (", means over runs" if report.seeds else "")
        + (
            ". Loading and saving models are between steps and not in them; stages taken from the cache show the"
            " seconds of the run that did the work."
        )
    )
    return join(element("p", key), table(columns, rows), element("p", note, class_="soft"))


def _setting(value: str, origin: str) -> Markup:
    return join(element("code", value), element("small", origin) if origin else None)


def configuration_section(report: Report) -> Markup | None:
    """What sets the configurations apart, or what one recipe chose, with who set each value."""
    if not report.settings:
        return None
    several = len(report.configurations) > 1
    shown = report.settings[:_MOST_SETTINGS]
    labels = [configuration.label for configuration in report.configurations]
    rows = [
        [element("code", setting.key), *(_setting(value, origin) for value, origin in setting.values)]
        for setting in shown
    ]
    columns = [Column("key"), *(Column(label if several else "value") for label in labels)]
    left = len(report.settings) - len(shown)
    said = (
        "Where the configurations differ, and under each value who set it."
        if several
        else "What the recipe and the command line set; config.yaml and origins.yaml of the run hold every value."
    )
    made = join(table(columns, rows), element("p", f"{left} more are left out here.") if left else None)
    body = made if several else element("details", element("summary", f"{len(report.settings)} values"), made)
    return join(element("p", said, class_="soft"), body)
