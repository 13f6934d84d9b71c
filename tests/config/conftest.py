from pathlib import Path

import pytest

from thinkrl.config import paths

FILES = {
    "conf/base.yaml": "defaults: [{scale: full}, _self_]\nseed: 0\nmodel: null\nreward: null\n",
    "conf/scale/full.yaml": "_target_: thinkrl.config.scale.Scale\n",
    "conf/scale/smoke.yaml": (
        "_target_: thinkrl.config.scale.Scale\n"
        "limits: {steps: 2, group_size: 2, new_tokens: 24, epochs: 1}\nchoose: {model: tiny}\n"
    ),
    "conf/model/tiny.yaml": "_target_: config_samples.Model\nsize: 1\n",
    "conf/model/large.yaml": "_target_: config_samples.Model\nsize: 900\n",
    "conf/reward/bonus.yaml": "_target_: config_samples.Bonus\ntarget_tokens: 100\n",
    "conf/reward/capped.yaml": "_target_: config_samples.CappedBonus\ntarget_tokens: 70\nlimit: 0.25\n",
    "conf/stage/grpo.yaml": "_target_: config_samples.Grpo\nreward: ${reward}\nspec: {}\n",
    "conf/stage/sft.yaml": "_target_: config_samples.Sft\nlearning_rate: 1e-5\n",
    "recipes/first/sample/paper.yaml": """
# @package _global_
# The sample recipe.
defaults:
  - /base
  - /model: large
  - /reward: bonus
  - /stage@stages.cold_start: sft
  - /stage@stages.grpo: grpo
  - _self_
name: sample
model: {dtype: bfloat16}
stages:
  grpo:
    steps: 400
    reward: {bonus: 2}
""",
    "recipes/first/sample/laptop.yaml": """
# @package _global_
defaults: [paper, _self_]
reward: {target_tokens: 50}
stages: {cold_start: {epochs: 2}}
""",
    "recipes/second/single.yaml": "# One file.\ndefaults: [/base, _self_]\nname: single\n",
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with its own conf/ and recipes/, which stand in for those of thinkrl."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(paths, "_shipped", lambda installed, checkout: tmp_path / checkout)
    monkeypatch.chdir(tmp_path)
    return tmp_path
