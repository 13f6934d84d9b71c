"""Run directories written by hand, with known responses, for the viewer to show."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.store import FinishReason, Group, Response, Rollouts
from thinkrl.tracking.rollout_files import write_rollouts

HOSTILE = (
    "<script>window.stung = 1; document.title = 'stung'</script>",
    '</pre></section><img src=x onerror="window.stung = 2">',
    '"><svg/onload="window.stung = 3">',
    "<style>* { display: none !important }</style><base href=//example.org>",
    '<a href="javascript:window.stung = 4">a</a><iframe src=//example.org></iframe>',
    "\u2028\u2029</script><script>window.stung = 5</script>\x00\x1b[31m\u202egnp.exe",
    "{{constructor.constructor('window.stung = 6')()}} <form action=//example.org><button>x</button></form>",
)
"""What a model might write to be more than text."""


@dataclass(frozen=True)
class Wrote:
    """One response and what a run keeps of it. given: parts of the text that the policy did not sample."""

    text: str
    verdict: str | None = "wrong"
    reward: float = 0.0
    advantage: float = 0.0
    finish: str = "stop"
    given: Sequence[str] = ()
    note: str = ""


@dataclass(frozen=True)
class Asked:
    """A prompt with its responses."""

    prompt_id: str
    question: str
    responses: Sequence[Wrote]
    reference: Any = "2"
    metadata: Mapping[str, Any] = field(default_factory=dict)


def response(name: str, group: str, wrote: Wrote) -> Response:
    """One token a word, its white space behind it, and a stop token that shows nothing where it stopped."""
    pieces, origins = [], []
    stretches = re.split("(" + "|".join(map(re.escape, wrote.given)) + ")", wrote.text) if wrote.given else [wrote.text]
    for place, part in enumerate(stretches):
        words = re.findall(r"\s+|\S+\s*", part)
        pieces += words
        origins += [1 - place % 2] * len(words)
    ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int32)
    if wrote.finish == "stop":
        ends, origins = np.append(ends, np.int32(len(wrote.text))), [*origins, 1]
    count = len(ends)
    known = np.where(np.asarray(origins, dtype=bool), 1.0, np.nan)
    return Response(
        response_id=name, group_id=group, text=wrote.text, finish_reason=FinishReason(wrote.finish),
        token_ids=np.arange(count, dtype=np.int32), origins=np.asarray(origins, np.uint8),
        logprobs=np.asarray(-0.25 * (np.arange(count) % 5) * known, np.float32),
        entropies=np.asarray(0.5 * (np.arange(count) % 4) * known, np.float32),
        versions=np.asarray(np.where(np.isnan(known), -1, 3), np.int32), char_ends=ends.astype(np.int32),
    )  # fmt: skip


def rollouts(step: int, asked: Sequence[Asked]) -> Rollouts:
    groups, responses = [], []
    for one in asked:
        name = f"{step}/{one.prompt_id}"
        prompt = Prompt(one.prompt_id, (Message("user", one.question),), one.reference, "tests", one.metadata)
        groups.append(Group(name, prompt, np.asarray([1, 2], np.int32)))
        responses += [response(f"{name}/{n}", name, wrote) for n, wrote in enumerate(one.responses)]
    return Rollouts.from_responses(groups, responses)


def write_step(run: Path, stage: str, step: int, asked: Sequence[Asked], **more: Any) -> Path:
    """A rollout file as training leaves it; `more` are further columns."""
    wrote = [one for group in asked for one in group.responses]
    held = rollouts(step, asked)
    columns = {
        "reward": [one.reward for one in wrote],
        "verdict": [one.verdict for one in wrote],
        "term/answer": [one.reward for one in wrote],
        "weight/answer": [1.0] * len(wrote),
        "contribution/answer": [one.reward for one in wrote],
        "notes/answer": [one.note for one in wrote],
        "advantage": [one.advantage for one in wrote],
        **more,
    }
    path = run / "stages" / stage / "rollouts" / f"{step:06d}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_rollouts(path, held, columns, stage=stage.partition("_")[2], step=step)
    return path


def token_column(held: Rollouts, scale: float = 1.0) -> Ragged:
    """A number for every token that grows with its place."""
    return Ragged.from_rows([scale * np.arange(int(n)) for n in held.token_ids.lengths], np.float64)


CONFIG = """\
name: demo
stages:
  rl: {_target_: thinkrl.stages.grpo.GRPO}
  after: {_target_: thinkrl.stages.evaluate.Evaluate}
"""


def write_record(run: Path, *, end: str = "finished", status: str = "finished", config: str = CONFIG) -> Path:
    """run.json and config.yaml of a run of two stages, `rl` and `after`."""
    run.mkdir(parents=True, exist_ok=True)
    stages = {
        "0_rl": {"status": status, "artifacts": {"model": {"path": "m"}}, "started": "", "finished": ""},
        "1_after": {
            "status": status if end == "finished" else "pending",
            "artifacts": {},
            "started": "",
            "finished": "",
        },
    }
    start = {"time": "2026-11-25T04:30:00+00:00", "pid": 1, **({"end": end} if end else {})}
    record = {"format": 1, "recipe": "demo", "seed": 0, "overrides": [], "stages": stages, "starts": [start]}
    (run / "run.json").write_text(json.dumps(record))
    (run / "config.yaml").write_text(config)
    return run


FIRST = Asked(
    "sum1",
    "What is 1 + 1?",
    [
        Wrote("<think>one and one</think><answer>2</answer>", "correct", 1.0, 0.75, note="equal"),
        Wrote("<think>hm</think><answer>3</answer>", "wrong", 0.5, 0.25, note="3 is not 2"),
        Wrote("<think>I never stop thinking about it", "ungradable", 0.0, -0.25, "length"),
        Wrote("<answer>2</answer>", "correct", 0.0, -0.75),
    ],
)
SECOND = Asked("sum2", "What is 2 + 2?", [Wrote("<answer>5</answer>"), Wrote("no idea, truly")], "4")


def small_run(folder: Path, **record: Any) -> Path:
    """Two steps of training and an evaluation, which has no rewards."""
    run = write_record(folder, **record)
    for step in (1, 2):
        write_step(run, "0_rl", step, [FIRST, SECOND])
    held = rollouts(1, [FIRST])
    path = run / "stages" / "1_after" / "rollouts" / "000001.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_rollouts(path, held, {"verdict": [one.verdict for one in FIRST.responses]}, stage="after", step=1)
    return run
