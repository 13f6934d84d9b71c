"""Run directories written by hand, with known numbers, for reports to read."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from thinkrl.benchmarks.protocol import EvaluationProtocol
from thinkrl.benchmarks.result import BenchmarkResult
from thinkrl.config.render import to_yaml
from thinkrl.grading.verdict import Verdict
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.store import FinishReason, Group, Response, Rollouts
from thinkrl.tracking.json_values import dump_json
from thinkrl.tracking.rollout_files import write_rollouts

STAGES = ("warm", "before", "rl", "after")
CONFIG: dict[str, Any] = {
    "name": "demo",
    "seed": 0,
    "model": {"_target_": "thinkrl.models.tiny.TinyModel", "hidden": 64},
    "paper": {"title": "A paper", "arxiv": "2505.15612", "summary": "It works."},
    "deviations": ["Smaller."],
    "tracker": {"mode": "offline"},
    "learner": {"learning_rate": 1e-5, "betas": [0.9, 0.95]},
    "stages": {
        "warm": {"_target_": "thinkrl.stages.sft.SFT"},
        "before": {"_target_": "thinkrl.stages.evaluate.Evaluate"},
        "rl": {"_target_": "thinkrl.stages.grpo.GRPO"},
        "after": {"_target_": "thinkrl.stages.evaluate.Evaluate"},
    },
}
ORIGINS = {
    "learner.learning_rate": "override learner.learning_rate=1e-5",
    "learner.betas.0": "recipes/demo/laptop.yaml",
    "learner.betas.1": "default of Learner",
    "model._target_": "conf/model/tiny.yaml",
}
PROTOCOL = EvaluationProtocol(
    "sums", 1, "d", 4, "t", 1, {"temperature": 1.0, "top_p": 1, "top_k": 0, "min_p": 0, "max_new_tokens": 8},
    {}, {}, {"_target_": "a.NumberGrader"}, "torch",
)  # fmt: skip


def result(marks: Sequence[int], seed: int = 0, model: str = "rl") -> BenchmarkResult:
    """One sample of each of four prompts."""
    ones = tuple((True,) for _ in marks)
    verdicts = tuple((Verdict.CORRECT if mark else Verdict.WRONG,) for mark in marks)
    return BenchmarkResult(
        PROTOCOL, model, seed, tuple("abcd"), verdicts, tuple(("1",) for _ in marks), ones,
        tuple((3,) for _ in marks), tuple((5,) for _ in marks), tuple((False,) for _ in marks),
    )  # fmt: skip


def rl_rows(rewards: Sequence[float], **columns: Any) -> list[dict[str, Any]]:
    """Rows of the training stage; `columns` are the same at every step, or one value a step."""
    usual = {"accuracy": 0.5, "loss": 0.001, "kl/old": 0.0, "ratio": 1.0, "advantage/flat_groups": 0.25,
             "reward/sum/contribution": 0.5, "reward/sum/value": 1.0, "entropy": 0.5, "truncated": 0.0,
             "seconds/sample": 2.0, "seconds/update": 1.0, "time": 1800000000.0}  # fmt: skip
    rows = []
    for step, reward in enumerate(rewards, start=1):
        own = {key: value[step - 1] if isinstance(value, list) else value for key, value in columns.items()}
        rows.append({"stage": "rl", "step": step, "reward": reward, **usual, **own})
    return rows


def rollouts(texts: Sequence[str]) -> Rollouts:
    """A response of each text to one prompt."""
    group = Group("g", Prompt("p", (Message("user", "1 + 1?"),), "2"), np.asarray([1], np.int32))
    responses = [
        Response(
            response_id=f"r{number}", group_id="g", text=text, finish_reason=FinishReason.STOP,
            token_ids=np.asarray([5], np.int32), origins=np.asarray([1], np.uint8),
            logprobs=np.asarray([-0.5], np.float32), entropies=np.asarray([0.5], np.float32),
            versions=np.asarray([0], np.int32), char_ends=np.asarray([len(text)], np.int32),
        )
        for number, text in enumerate(texts)
    ]  # fmt: skip
    return Rollouts.from_responses([group], responses)


def write_run(
    folder: Path,
    *,
    seed: int = 0,
    config: Mapping[str, Any] = CONFIG,
    rows: Sequence[Mapping[str, Any]] | None = None,
    before: Sequence[int] = (1, 0, 0, 0),
    after: Sequence[int] = (1, 1, 1, 0),
    texts: Sequence[str] = ("<think>1 + 1</think><answer>2</answer>", "<think>hm"),
    unfinished: str = "",
    record: Mapping[str, Any] | None = None,
) -> Path:
    """A run of all STAGES, or up to the `unfinished` one."""
    folder.mkdir(parents=True)
    stages: dict[str, Any] = {}
    reached = STAGES.index(unfinished) if unfinished else len(STAGES)
    for index, name in enumerate(STAGES):
        status = "finished" if index < reached else "running" if index == reached else "pending"
        begun = f"2026-11-25T04:{30 + index:02d}:00+00:00" if index <= reached else ""
        ended = f"2026-11-25T04:{30 + index:02d}:30+00:00" if index < reached else ""
        made = {} if status != "finished" or name in ("warm", "rl") else {
            "result": {"path": f"stages/{index}_{name}/result.json", "fingerprint": "f"}
        }  # fmt: skip
        stages[f"{index}_{name}"] = {"status": status, "artifacts": made, "started": begun, "finished": ended}
        if made:
            place = folder / "stages" / f"{index}_{name}"
            place.mkdir(parents=True)
            (place / "result.json").write_text(result(before if name == "before" else after, seed).to_json())
    marks = ["correct" if "<answer>" in text else "wrong" for text in texts]
    columns = {
        "reward": [1.0, *[0.0] * (len(texts) - 1)], "verdict": marks, "advantage": [0.5, *[-0.5] * (len(texts) - 1)],
        "term/sum": [1.0, *[0.0] * (len(texts) - 1)], "contribution/sum": [1.0, *[0.0] * (len(texts) - 1)],
        "notes/sum": [""] * len(texts),
    }  # fmt: skip
    place = folder / "stages" / "2_rl" / "rollouts"
    place.mkdir(parents=True, exist_ok=True)
    write_rollouts(place / "000002.parquet", rollouts(texts), columns, "rl", 2)
    warm = [{"stage": "warm", "step": s, "loss": 1.0 / s, "gradient_norm": 1.0, "seconds/update": 0.5} for s in (1, 2)]
    own = [*warm, *(rows if rows is not None else rl_rows([0.1, 0.3, 0.5, 0.7]))]
    (folder / "metrics.jsonl").write_text("".join(dump_json(row) + "\n" for row in own))
    (folder / "config.yaml").write_text(to_yaml({**config, "seed": seed}))
    (folder / "origins.yaml").write_text(to_yaml(ORIGINS))
    written = {
        "format": 1, "recipe": "demo", "overrides": [f"seed={seed}"], "seed": seed,
        "created": "2026-11-25T04:30:00+00:00",
        "versions": {"thinkrl": "0.1.0", "torch": "2.13"}, "git": {"commit": "0123456789abcdef", "dirty": False},
        "hardware": {"processor": "Some CPU", "cores": 2, "memory_bytes": 2**33, "gpus": []}, "stages": stages,
        "starts": [{"time": "2026-11-25T04:30:00+00:00", "ended": "2026-11-25T04:35:00+00:00", "end": "finished"}],
        **(record or {}),
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(written))
    return folder
