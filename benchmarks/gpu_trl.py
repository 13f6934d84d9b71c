"""TRL's side of gpu_check.py, run by a Python that has TRL and vLLM: prints seconds and tokens of every step.

    python benchmarks/gpu_trl.py SETUP

SETUP is JSON: {"model": FOLDER, "steps": 20, "prompts": 8, "group": 8, "new_tokens": 128, "vllm": true}. Needs nothing
of thinkrl. The last line of its output is a list of {"seconds", "tokens"}, one for each optimizer step.
"""

import json
import os
import random
import sys
import tempfile
import time
from typing import Any


def questions(count: int) -> list[dict[str, Any]]:
    """Sums of four one-digit terms as chat prompts, with the system turn of thinkrl's chain_sum data."""
    system = "Think step by step in <think></think>, then answer in <answer></answer>."
    draw = random.Random(0)
    made = []
    for _ in range(count):
        terms = [str(draw.randint(1, 9)) for _ in range(4)]
        text = f"State the final answer to the following arithmetic problem: {' + '.join(terms)} ="
        made.append({"prompt": [{"role": "system", "content": system}, {"role": "user", "content": text}]})
    return made


def main(setup: dict[str, Any]) -> None:
    """Trains, and prints the figures."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer  # type: ignore[import-not-found,unused-ignore]

    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
        if setup["vllm"]:
            os.environ.setdefault(name, value)
    if setup["vllm"]:
        os.environ.setdefault("MASTER_ADDR", "localhost")
        os.environ.setdefault("MASTER_PORT", "29511")
    steps: list[dict[str, float]] = []
    tokens = [0]

    class Clock(TrainerCallback):  # type: ignore[misc,unused-ignore]
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            _wait()
            self.begun, tokens[0] = time.perf_counter(), 0

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            _wait()
            steps.append({"seconds": time.perf_counter() - self.begun, "tokens": float(tokens[0])})

    def coin(prompts: list[Any], completion_ids: list[list[int]], **_: Any) -> list[float]:
        tokens[0] += sum(map(len, completion_ids))
        return [float(sum(ids) % 2) for ids in completion_ids]

    batch, on_gpu = setup["prompts"] * setup["group"], torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as scratch:
        config = GRPOConfig(
            output_dir=scratch, use_cpu=not on_gpu, seed=0, report_to=[], logging_strategy="no", save_strategy="no",
            eval_strategy="no", disable_tqdm=True, max_steps=setup["steps"], num_generations=setup["group"],
            per_device_train_batch_size=batch, gradient_accumulation_steps=1,
            max_completion_length=setup["new_tokens"], temperature=1.0, top_p=1.0, top_k=0, num_iterations=1, beta=0.0,
            epsilon=0.2, scale_rewards="group", learning_rate=1e-5, lr_scheduler_type="constant", weight_decay=0.0,
            adam_beta2=0.95, max_grad_norm=1.0, optim="adamw_torch_fused", gradient_checkpointing=False, bf16=True,
            use_vllm=setup["vllm"], **({"vllm_mode": "colocate", "vllm_gpu_memory_utilization": 0.3}
                                       if setup["vllm"] else {}),
        )  # fmt: skip
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(setup["model"], dtype=torch.float32),
            reward_funcs=coin,
            args=config,
            processing_class=AutoTokenizer.from_pretrained(setup["model"]),
            train_dataset=Dataset.from_list(questions(setup["prompts"] * setup["steps"])),
            callbacks=[Clock()],
        )
        trainer.train()
    print(json.dumps(steps))


def _wait() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
