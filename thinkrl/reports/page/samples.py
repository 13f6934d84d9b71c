"""Sample responses on the page: what the model wrote, shown as text whatever it is."""

from thinkrl.reports.numbers import number
from thinkrl.reports.page.elements import Markup, element, join
from thinkrl.reports.page.tables import Column, table
from thinkrl.reports.report import Report
from thinkrl.reports.samples import Sample

_COLOUR = {"correct": "good", "wrong": "bad"}


def samples_section(report: Report) -> Markup | None:
    """A few responses of each stage, of the last step that kept any."""
    if not report.samples:
        return None
    several = len(report.configurations) > 1
    parts: list[object] = [
        element(
            "p",
            "Of the last step of each stage: a right response, a wrong one and an odd one, where there are such. ",
            element("mark", "thinking", class_="think"), " and ", element("mark", "answer", class_="answer"),
            " are marked. Every response is in the stage's rollouts folder, as parquet.",
            class_="soft",
        )
    ]  # fmt: skip
    for stage in dict.fromkeys(sample.stage for sample in report.samples):
        own = [sample for sample in report.samples if sample.stage == stage]
        parts.append(element("h3", stage))
        parts.append(element("div", [_article(sample, several) for sample in own], class_="samples"))
    return join(*parts)


def _article(sample: Sample, several: bool) -> Markup:
    heading = [f"step {sample.step}, prompt {sample.prompt_id}"]
    if several:
        heading.insert(0, sample.label)
    facts = (
        [element("span", sample.verdict, class_=f"verdict {_COLOUR.get(sample.verdict, 'open')}")]
        if sample.verdict
        else []
    )
    words = [f"ended by {'the token limit' if sample.finish_reason == 'length' else sample.finish_reason}"]
    if sample.reward is not None:
        words.insert(0, f"reward {number(sample.reward)}")
    if sample.advantage is not None:
        words.insert(1, f"advantage {number(sample.advantage)}")
    return element(
        "article",
        element("h4", ", ".join(heading)),
        element("p", facts, ", " if facts else None, ", ".join(words)),
        element("details", element("summary", "prompt"), element("pre", sample.prompt, tabindex=0)),
        element("pre", [_piece(kind, words) for kind, words in sample.parts], tabindex=0, aria_label="response"),
        element("p", f"{sample.cut} more characters", class_="soft") if sample.cut else None,
        element("p", f"Reference: {sample.reference}", class_="soft") if sample.reference else None,
        _terms(sample) if sample.terms else None,
    )


def _piece(kind: str, words: str) -> Markup | str:
    return (
        words if kind == "text" else element("mark", words, class_=kind, title="thinking" if kind == "think" else kind)
    )


def _terms(sample: Sample) -> Markup:
    columns = [Column("reward part"), Column("value", True), Column("adds", True), Column("note")]
    rows = [[name, number(value), number(added), note] for name, value, added, note in sample.terms]
    return table(columns, rows, cards=False)
