"""Runs that talk with simulated users: by PPO with a critic, and behind a URL; killed and started again."""

import json
import signal
import sys
from pathlib import Path
from typing import Any

from cli_process import finish, start
from run_contents import files, metric_rows

from thinkrl.tracking.rollout_files import read_rollouts

sys.path.append(str(Path(__file__).parents[1] / "judges"))
from chat_double import Answering, serving

RECIPE = """# @package _global_
defaults:
  - /base
  - /model: tiny
  - /environment: dialogue
  - /reward: {reward}
  - /algorithm: ppo
  - /stage@stages.rl: grpo
  - /companion@stages.rl.companions.critic: critic
  - _self_

name: talk
model: {{tokenizer: character, hidden: 32, intermediate: 48, layers: 1, heads: 2, kv_heads: 2}}
tracker: null
data: {{_target_: thinkrl.tasks.small_talk.SmallTalk, size: 8}}
environment:
  samples: {samples}
  max_turns: 4
  max_turn_tokens: 6
  feeling: {{start: 14.0, levels: {{S: 100.0, C: 3.0}}}}
  {user}
stages:
  rl:
    steps: 4
    prompts_per_step: 2
    group_size: 2
    checkpoint_every: 1
    sampling: {{max_new_tokens: 400}}
"""


def recipe(folder: Path, samples: str, reward: str = "emotion", user: str = "") -> list[str]:
    folder.mkdir(exist_ok=True)
    path = folder / "talk.yaml"
    path.write_text(RECIPE.format(samples=samples, reward=reward, user=user))
    return ["run", str(path), "reuse=false", "--dir", str(folder / "run")]


def episodes(run: Path) -> list[Any]:
    stored = [read_rollouts(path).rollouts for path in sorted(run.glob("stages/*_rl/rollouts/*"))]
    return [episode for rollouts in stored for episode in rollouts.episodes]


def compared(run: Path) -> dict[str, str]:
    """All files but the transcript, which tells of every time that a step was done."""
    return {name: data for name, data in files(run).items() if "transcript" not in name}


def test_killed_and_started_again(tmp_path: Path) -> None:
    """Credit for turns within whole conversations, and turns that are responses of their own."""
    for samples, reward in (("dialogue", "emotion_turns"), ("turn", "emotion")):
        whole = recipe(tmp_path / f"{samples}_whole", samples, reward)
        killed = recipe(tmp_path / f"{samples}_killed", samples, reward)
        log = tmp_path / "log"
        assert finish(start(whole, log)) == 0, log.read_text()
        assert finish(start(killed, log, ("rollouts", 3))) == -signal.SIGKILL
        assert finish(start(killed, log)) == 0, log.read_text()
        runs = [Path(arguments[-1]) for arguments in (whole, killed)]
        assert metric_rows(runs[1]) == metric_rows(runs[0])
        assert files(runs[1]) == files(runs[0])
        turns = {episode.turns for episode in episodes(runs[0])}
        assert max(turns) > 1
        rows = metric_rows(runs[0])
        assert all(row["reward/emotion/ungradable"] == 0 and row["critic/loss"] >= 0 for row in rows)


def test_a_user_behind_a_url_that_changes_its_mind_is_the_same_after_a_stop(tmp_path: Path) -> None:
    """Other answers each time it is asked the same; some conversations get none, and some nonsense."""

    def moody(handler: Answering, body: dict[str, Any], before: int) -> None:
        asked = body["messages"][-1]["content"]
        mood = sum(asked.encode())
        if mood % 7 == 0:
            handler.send(b"no", 400)
        elif "in five steps" in asked:
            handler.say("Change: much" if mood % 5 == 0 else f"Change: {(mood + 3 * before) % 9 - 3}")
        else:
            handler.say(f"Message: words {before}")

    def arguments(folder: Path, url: str) -> list[str]:
        user = f"user: {{backend: {{url: '{url}', model: m}}, sampling: {{max_new_tokens: 16}}, attempts: 2}}"
        made = recipe(folder, "turn", user=user)
        path = Path(made[1])
        path.write_text(path.read_text().replace(
            "/environment: dialogue", "/environment: dialogue\n  - /simulated_user/chat_model@environment.user"
        ))  # fmt: skip
        return made

    with serving(moody) as server:
        made = arguments(tmp_path, server.url)
        assert finish(start(made, tmp_path / "log", ("row", 3))) == -signal.SIGKILL
        assert finish(start(made, tmp_path / "log")) == 0, (tmp_path / "log").read_text()
    folder = next((tmp_path / "run" / "stages").glob("*_rl"))
    told = [json.loads(row) for row in (folder / "user_transcript.jsonl").read_text().splitlines()]
    assert len({row["key"] for row in told}) < len(told)  # step 3 was done twice
    for row in told:  # and each question has one answer, however often it was asked
        assert len({other["reply"] for other in told if other["key"] == row["key"] and not other["fault"]}) <= 1
    found = {episode.episode: episode for episode in episodes(tmp_path / "run")}
    assert len(found) == 4 * 4
    faults = [episode for episode in found.values() if episode.fault]
    assert 0 < len(faults) < len(found)
    assert {fault.ended for fault in faults} == {"fault"}
    rows = metric_rows(tmp_path / "run")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    for row in rows:
        assert (row["reward/excluded"] > 0) == (row["reward/emotion/ungradable"] > 0)
    assert sum(row["reward/emotion/ungradable"] * row["reward/emotion/episodes"] for row in rows) == len(faults)


def test_a_user_that_cannot_be_had_ends_the_run_before_anything_loads(tmp_path: Path) -> None:
    made = recipe(tmp_path, "turn", user="user: {backend: {url: 'http://127.0.0.1:9/v1', model: m, key_from: NO_KEY}}")
    path = Path(made[1])
    path.write_text(path.read_text().replace(
        "/environment: dialogue", "/environment: dialogue\n  - /simulated_user/chat_model@environment.user"
    ))  # fmt: skip
    assert finish(start(made, tmp_path / "log")) == 1
    assert "set the environment variable NO_KEY" in " ".join((tmp_path / "log").read_text().split())
