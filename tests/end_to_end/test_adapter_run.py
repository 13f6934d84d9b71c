"""SFT and GRPO learn adapters, a killed run goes on exactly, and peft reads what it left."""

import json
import signal
from pathlib import Path

import torch
from cli_process import SMALL, finish, start
from peft import PeftModel
from run_contents import files, metric_rows
from transformers import AutoModelForCausalLM

FEWER = ("~stages.after_cold_start", "~stages.selection", "~stages.refinement", "~stages.after_refinement",
         "~stages.after_grpo", "~claim")  # fmt: skip
ADAPTER = ("learner/adapter=dora", "learner.adapter.rank=4", "learner.adapter.export=true",
           "stages.cold_start.learner.learning_rate=1.0e-2", "stages.grpo.learner.learning_rate=1.0e-2",
           "reward.terms.coin.term._target_=thinkrl.rewards.random_reward.RandomReward",
           "algorithm.objective.kl={_target_: thinkrl.algorithms.kl.KLLoss, coefficient: 0.01}")  # fmt: skip


def adapter_run(directory: Path) -> list[str]:
    small = [line for line in SMALL if line.partition("=")[0].split(".")[1:2] != ["selection"]]
    return ["run", "quickstart", *small, *FEWER, *ADAPTER, "--dir", str(directory)]


def test_adapters_learn_in_every_stage_and_a_killed_run_goes_on_exactly(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert finish(start(adapter_run(tmp_path / "whole"), log)) == 0, log.read_text()
    for kill in [("checkpoint", 2), ("checkpoint", 3)]:  # in SFT, then in GRPO, each with a checkpoint to go on from
        assert finish(start(adapter_run(tmp_path / "killed"), log, kill)) == -signal.SIGKILL
    saved = [p.stat().st_size for p in (tmp_path / "killed").rglob("step_00000001/*.safetensors")]
    assert finish(start(adapter_run(tmp_path / "killed"), log)) == 0, log.read_text()
    assert metric_rows(tmp_path / "killed") == metric_rows(tmp_path / "whole")
    assert files(tmp_path / "killed") == files(tmp_path / "whole")

    rows = [row for row in metric_rows(tmp_path / "whole") if row["stage"] == "grpo"]
    assert max(row["mismatch/max_abs"] for row in rows) < 1e-4
    assert rows[0]["kl/reference"] == 0 < rows[-1]["kl/reference"]
    cold_start, grpo = (tmp_path / "whole" / "stages" / name / "model" for name in ("0_cold_start", "1_grpo"))
    assert saved
    assert max(saved) < (grpo / "model.safetensors").stat().st_size / 4
    settings = json.loads((grpo / "adapter" / "adapter_config.json").read_text())
    assert settings["use_dora"]
    assert settings["base_model_name_or_path"] == str(cold_start)
    ids = torch.arange(20)[None]
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(cold_start), grpo / "adapter")
    with torch.no_grad():
        ours = AutoModelForCausalLM.from_pretrained(grpo)(ids).logits.log_softmax(-1)
        theirs = adapted(ids).logits.log_softmax(-1)
        base = AutoModelForCausalLM.from_pretrained(cold_start)(ids).logits.log_softmax(-1)
    assert (ours - theirs).abs().max() < 1e-5
    assert (ours - base).abs().max() > 1e-3
