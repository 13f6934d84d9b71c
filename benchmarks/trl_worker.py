"""TRL's side of grpo_step.py, run by a Python that has TRL and not thinkrl: one optimizer step a call."""

import importlib.metadata
import platform
import tempfile
import time
from typing import Any

import step_work
import torch
from datasets import Dataset
from step_work import Calls
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer  # type: ignore[import-not-found,unused-ignore]

WEIGHTS = {"bfloat16": torch.bfloat16, "bfloat16-autocast": torch.bfloat16, "float32-autocast": torch.float32}
"""Precision of the weights; with autocast the trainer's bf16 option is on as well."""
_PACKAGES = ("torch", "transformers", "trl", "accelerate", "datasets")


class OneStepACall(TrainerCallback):  # type: ignore[misc,unused-ignore]
    """Waits for a call before each optimizer step, and answers it with what the step took."""

    def __init__(self, calls: Calls, about: dict[str, Any]) -> None:
        self._calls, self._reply, self._begun, self._worked, self._seen = calls, about, 0.0, 0.0, 0
        self.questions: list[str] = []
        self.generated = 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The last reply goes out, the next call comes in, the clock starts."""
        self._calls.answer(self._reply)
        if self._calls.next() is None:
            raise SystemExit
        self.questions, self.generated, self._seen = [], 0, state.num_input_tokens_seen
        step_work.reset_peak_memory()
        self._begun, self._worked = time.perf_counter(), time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The step's figures."""
        self._reply = {
            "seconds": time.perf_counter() - self._begun,
            "processor_seconds": time.process_time() - self._worked,
            "memory": step_work.memory_bytes(),
            "generated_tokens": self.generated,
            "tokens_seen": state.num_input_tokens_seen - self._seen,
            "questions": step_work.digest(self.questions),
        }
        if state.global_step >= state.max_steps:
            self._calls.answer(self._reply)


def main() -> None:
    """Trains, a call at a time."""
    calls = Calls()
    setup = calls.next()
    assert setup is not None
    case, micro, weights = step_work.CASES[setup["case"]], int(setup["micro_batch"]), str(setup["weights"])
    questions: list[str] = setup["questions"]
    model = AutoModelForCausalLM.from_pretrained(setup["model"], dtype=WEIGHTS[weights])
    about = {
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in _PACKAGES},
        "threads": torch.get_num_threads(),
    }
    callback = OneStepACall(calls, about)

    def reward(prompts: list[Any], completion_ids: list[list[int]], **_: Any) -> list[float]:
        callback.questions = [prompt[-1]["content"] for prompt in prompts[:: case.group_size]]
        callback.generated += sum(len(ids) for ids in completion_ids)
        return [step_work.checksum_reward(ids) for ids in completion_ids]

    with tempfile.TemporaryDirectory() as scratch:
        config = GRPOConfig(
            output_dir=scratch, use_cpu=True, seed=step_work.SEED, report_to=[], logging_strategy="no",
            save_strategy="no", eval_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
            max_steps=len(questions) // case.prompts, num_generations=case.group_size,
            per_device_train_batch_size=micro, gradient_accumulation_steps=case.samples // micro,
            max_completion_length=case.new_tokens, temperature=1.0, top_p=1.0, top_k=0,
            # Nothing ends a response early, and nothing is spent on keeping it from ending.
            generation_kwargs={"eos_token_id": None},
            num_iterations=1, beta=0.0, epsilon=step_work.CLIP, scale_rewards="group", shuffle_dataset=False,
            learning_rate=step_work.LEARNING_RATE, lr_scheduler_type="constant", weight_decay=0.0,
            adam_beta1=step_work.BETAS[0], adam_beta2=step_work.BETAS[1], adam_epsilon=step_work.EPSILON,
            max_grad_norm=step_work.LARGEST_NORM, optim="adamw_torch_fused",
            # The trainer's default saves memory for a fifth of the time; there is memory enough.
            gradient_checkpointing=False, bf16=weights.endswith("autocast"),
        )  # fmt: skip
        trainer = GRPOTrainer(
            model=model, reward_funcs=reward, args=config,
            processing_class=AutoTokenizer.from_pretrained(setup["model"]),
            train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in questions]),
            callbacks=[callback],
        )  # fmt: skip
        trainer.eos_token_ids = [-1]  # or it would mask what follows an end token
        trainer.train()


if __name__ == "__main__":
    main()
