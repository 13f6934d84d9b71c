"""Runs with a judge for a reward: in this process with a trained judge, and behind a URL; killed and started again."""

import json
import signal
import sys
from pathlib import Path

import pytest
from cli_process import finish, start
from run_contents import files, metric_rows

sys.path.append(str(Path(__file__).parents[1] / "judges"))
from chat_double import Answering, serving

RECIPE = """# @package _global_
defaults:
  - /base
  - /model: tiny
  - /data: chain_sum
  - /environment: single_turn
  - /reward: judged
  - /algorithm: grpo
  - /data/chain_sum_traces@constants.traces
  - /stage@stages.judging: sft
  - /stage@stages.grpo: grpo
  - /companion@stages.grpo.companions.judge: {companion}
  - _self_

name: judged
model: {{hidden: 32, intermediate: 48, layers: 1, heads: 2, kv_heads: 2}}
tracker: null
stages:
  judging: {{traces: "${{constants.traces}}", max_steps: 1, batch_size: 2}}
  grpo:
    model_from: base
    steps: 4
    prompts_per_step: 2
    group_size: 3
    checkpoint_every: 1
    sampling: {{max_new_tokens: 6}}
    companions: {{judge: {{judge: {judge}}}}}
"""
TRAINED = """{prompt: {system: "", user: "{first}|{second}"}, backend: {model_from: judging},
 sampling: {max_new_tokens: 1},
 scorer: {reading: {_target_: thinkrl.judges.readings.OptionProbability, worth: {A: 1.0, B: 0.0}, least_mass: 0.0}}}"""


def recipe(folder: Path, companion: str, judge: str) -> list[str]:
    folder.mkdir(exist_ok=True)
    path = folder / "judged.yaml"
    path.write_text(RECIPE.format(companion=companion, judge=" ".join(judge.split())))
    return ["run", str(path), "reuse=false", "--dir", str(folder / "run")]


def compared(run: Path) -> dict[str, str]:
    """All files but the transcript, which tells of every time that a step was done."""
    return {name: data for name, data in files(run).items() if "transcript" not in name}


def test_a_judge_that_the_recipe_trained_pays_the_policy(tmp_path: Path) -> None:
    done = recipe(tmp_path / "whole", "pairwise_judge", TRAINED)
    assert finish(start(done, tmp_path / "log")) == 0, (tmp_path / "log").read_text()
    rows = [row for row in metric_rows(tmp_path / "whole" / "run") if row["stage"] == "grpo"]
    assert [row["judge/ungradable"] for row in rows] == [0.0] * 4
    assert all(0 < row["reward/mean"] < 1 for row in rows)
    assert all("judge/order_agreement" in row for row in rows)

    again = recipe(tmp_path / "killed", "pairwise_judge", TRAINED)
    assert finish(start(again, tmp_path / "log", ("row", 4))) == -signal.SIGKILL
    assert finish(start(again, tmp_path / "log")) == 0, (tmp_path / "log").read_text()
    assert metric_rows(tmp_path / "killed" / "run") == metric_rows(tmp_path / "whole" / "run")
    assert compared(tmp_path / "killed" / "run") == compared(tmp_path / "whole" / "run")


def test_a_judge_that_changes_its_mind_gives_a_run_that_goes_on_what_it_said_before(tmp_path: Path) -> None:

    def moody(handler: Answering, body: dict[str, object], before: int) -> None:
        # Another score each time it is asked the same; every fifth question gets no answer at all.
        text = json.dumps(body["messages"])
        score = (sum(text.encode()) + 3 * before) % 11
        if sum(text.encode()) % 5 == 0:
            handler.send(b"no", 400)
        else:
            handler.say(f"Score: {score}")

    with serving(moody) as server:
        judge = f"{{backend: {{url: '{server.url}', model: m}}, sampling: {{max_new_tokens: 16}}}}"
        arguments = recipe(tmp_path, "judge", judge)
        assert finish(start(arguments, tmp_path / "log", ("row", 3))) == -signal.SIGKILL
        assert finish(start(arguments, tmp_path / "log")) == 0, (tmp_path / "log").read_text()
    folder = next((tmp_path / "run" / "stages").glob("*_grpo"))
    answers = [json.loads(line) for line in (folder / "judgement_answers.jsonl").read_text().splitlines()]
    told = [json.loads(line) for line in (folder / "judgement_transcript.jsonl").read_text().splitlines()]
    assert {row["reply"] for row in told if row["key"] in {one["key"] for one in answers}} == {
        a["text"] for a in answers
    }
    for row in told:  # each question has one answer, however often its step was done
        same = {other["reply"] for other in told if other["key"] == row["key"] and not other["fault"]}
        assert len(same) <= 1
    rows = [row for row in metric_rows(tmp_path / "run") if row["stage"] == "grpo"]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert any(row["judge/ungradable"] > 0 for row in rows) == any(row["fault"] for row in told)
    assert all(row["reward/excluded"] == pytest.approx(6 * row["judge/ungradable"]) for row in rows)


def test_a_recipe_without_a_judge_for_the_reward_is_refused(tmp_path: Path) -> None:
    arguments = recipe(tmp_path, "judge", "{backend: {url: 'http://127.0.0.1:9/v1', model: m}}")
    code = finish(start([*arguments, "stages.grpo.companions.judge.signal=other"], tmp_path / "log"))
    assert code == 2
    assert "companions: must supply the signal 'judgement'" in " ".join((tmp_path / "log").read_text().split())


def test_an_unknown_place_in_the_prompt_ends_the_run_before_anything_loads(tmp_path: Path) -> None:
    arguments = recipe(
        tmp_path, "judge", "{backend: {url: 'http://127.0.0.1:9/v1', model: m}, prompt: {user: '{respnse}'}}"
    )
    assert finish(start(arguments, tmp_path / "log")) == 1
    assert "{respnse}, which nothing fills; did you mean response?" in " ".join((tmp_path / "log").read_text().split())
