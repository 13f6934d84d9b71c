"""The claim's verdict and the held-out results on the page, each number with its interval."""

from thinkrl.reports.claims import CheckLine, ClaimReport
from thinkrl.reports.evaluations import Evaluation
from thinkrl.reports.numbers import change, duration, number, percent
from thinkrl.reports.page.drawing import interval
from thinkrl.reports.page.elements import Markup, element, join
from thinkrl.reports.page.tables import Column, table
from thinkrl.reports.report import Report

_LOOK = {"reproduced": "good", "not reproduced": "bad", "inconclusive": "open"}


def claim_section(claim: ClaimReport) -> Markup:
    """The claim's verdict, every check beside the paper's numbers, and what the arms spent."""
    columns = [Column("check"), Column("paper"), Column("here"), Column("difference or ratio"), Column("95% interval"),
               Column("bound"), Column("verdict")]  # fmt: skip
    return join(
        element("p", element("b", claim.statement)),
        element("p", verdict(claim.verdict), f" on {len(claim.seeds)} seeds, each check by its 95% interval."),
        [element("p", f"Unequal budget: {line}") for line in claim.unequal],
        table(columns, [_check_row(check) for check in claim.checks]),
        element("p", element("b", "Analysis. "), claim.analysis) if claim.analysis else None,
        element("h3", "What the arms are, and what they spent"),
        table(
            [Column("arm"), Column("changes"), *(Column(name.replace("_", " "), True) for name in _spent(claim)),
             Column("time, all seeds", True)],
            [
                [arm, element("code", changes), *(f"{claim.spent[arm][name]:,.0f}" for name in _spent(claim)),
                 duration(60 * claim.minutes[arm]) if arm in claim.minutes else "–"]
                for arm, changes in claim.arms.items()
            ],
        ),
    )  # fmt: skip


def _spent(claim: ClaimReport) -> list[str]:
    return list(next(iter(claim.spent.values()), {}))


def _check_row(check: CheckLine) -> list[object]:
    reach = [value for value in (check.low, check.high, check.value, check.threshold) if value == value]
    pad = 0.15 * (max(reach) - min(reach)) or 1.0
    drawn = interval(check.value, check.low, check.high, min(reach) - pad, max(reach) + pad, check.threshold)
    return [
        join(check.statement, element("small", check.arms)),
        join(check.paper or "–", element("small", check.source) if check.source else None),
        check.ours,
        join(number(check.value), element("small", "by seed " + ", ".join(map(number, check.per_seed)))),
        join(f"{number(check.low)} to {number(check.high)}", drawn),
        check.bound,
        verdict(check.verdict),
    ]


def verdict(words: str) -> Markup:
    """A verdict in its colour, which is never all that tells it."""
    return element("span", words, class_=f"verdict {_LOOK.get(words, 'open')}")


def results_section(report: Report) -> Markup | None:
    """Held-out accuracy after every stage with its interval, and what the stage changed."""
    if not report.evaluations:
        return None
    numbers = list(dict.fromkeys(name for evaluation in report.evaluations for name in evaluation.numbers))
    several = len(report.configurations) > 1
    columns = [
        Column("stage"),
        *([Column("runs")] if several else []),
        Column("accuracy", True), Column("95% interval"), Column("change, points", True),
        *(Column(name.replace("_", " "), True) for name in numbers),
    ]  # fmt: skip
    colours = report.colours
    rows = [
        [
            join(e.stage, element("small", f"{e.benchmark}, model {e.model}") if e.benchmark else None),
            *([e.label] if several else []),
            percent(e.accuracy.value),
            join(
                f"{percent(e.accuracy.low)} to {percent(e.accuracy.high)}",
                interval(e.accuracy.value, e.accuracy.low, e.accuracy.high, 0.0, 1.0, None, colours[e.label]),
            ),
            _change(e),
            *(_number(name, e.numbers.get(name)) for name in numbers),
        ]
        for e in report.evaluations
    ]
    return join(table(columns, rows), element("p", _how_measured(report), class_="soft"))


def _change(evaluation: Evaluation) -> Markup | str:
    made = evaluation.change
    if made is None:
        return ""
    return join(change(made.value), element("small", f"{change(made.low)} to {change(made.high)}"))


def _number(name: str, value: float | None) -> str:
    shares = name.startswith(("pass@", "maj@")) or name.endswith("_rate")
    return percent(value) if shares else number(None if value is None else round(value, 1))


def _how_measured(report: Report) -> str:
    first = report.evaluations[0]
    samples = f"{first.samples} samples of each of " if first.samples else ""
    sizes = f"{samples}{first.prompts} held-out prompts, protocol {first.protocol}"
    if report.seeds:
        return f"Means and Student's intervals over seeds, of a single run over prompts; {sizes}."
    return f"Intervals are over prompts: {sizes}. The change is paired on the same prompts."
