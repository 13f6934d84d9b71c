"""thinkrl's side of grpo_step.py: one whole GRPO step a call, as the stage does it, without its records.

    python benchmarks/thinkrl_worker.py --profile [--case short] [--model FOLDER]

runs a step under torch's profiler and prints the operators that take the time.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import step_work
import torch
from step_work import Calls, Case

from thinkrl.algorithms.advantages import GroupAdvantage
from thinkrl.algorithms.algorithm import Algorithm
from thinkrl.algorithms.objective import ClippedObjective
from thinkrl.environments.single_turn import SingleTurn
from thinkrl.learning.packing import pack, rollout_paths
from thinkrl.learning.torch_learner import TorchLearner
from thinkrl.models.allocator import keep_freed_memory
from thinkrl.models.pretrained import PretrainedModel
from thinkrl.rewards.reward import Reward, WeightedTerm
from thinkrl.rewards.term import RewardContext, Scores
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.store import Rollouts
from thinkrl.sampling.sampler import SamplingSpec
from thinkrl.sampling.torch_sampler import TorchSampler
from thinkrl.tracking.provenance import versions


@dataclass(frozen=True)
class TokenChecksum:
    """A reward that costs nothing and differs within every group."""

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        """`checksum_reward` of every response."""
        values = [step_work.checksum_reward(row.tolist()) for row in rollouts.token_ids]
        return Scores(np.asarray(values, dtype=np.float64))


@dataclass
class Parts:
    """Seconds of each part of a step. `around` stands around a part, such as a profiler."""

    seconds: dict[str, float] = field(default_factory=dict)
    around: Callable[[str], Any] | None = None

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Times a part."""
        if self.around is not None:
            with self.around(name):
                yield
            return
        begun = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - begun


class Steps:
    """An open learner and sampler on one policy, and the prompts of the steps to come."""

    def __init__(self, case: Case, model: str, questions: list[str]) -> None:
        keep_freed_memory()  # as every run of thinkrl does
        self._case = case
        self._policy = PretrainedModel(model).load(for_training=True)
        self._policy.stop_ids = frozenset()  # no response ends before its last token
        self._spec = SamplingSpec(temperature=1.0, max_new_tokens=case.new_tokens)
        self._environment = SingleTurn()
        self._reward = Reward(terms={"checksum": WeightedTerm(TokenChecksum())})
        self._algorithm = Algorithm(
            GroupAdvantage(), ClippedObjective(step_work.CLIP, step_work.CLIP, aggregation="token")
        )
        self.configuration = TorchLearner(
            learning_rate=step_work.LEARNING_RATE, betas=step_work.BETAS, epsilon=step_work.EPSILON,
            max_gradient_norm=step_work.LARGEST_NORM,
        )  # fmt: skip
        steps = len(questions) // case.prompts
        self._learner = self.configuration.open(self._policy, total_steps=steps, with_reference=False)
        self._sampler = TorchSampler().open(self._policy)
        self._prompts = [Prompt(f"p{i}", (Message("user", text),)) for i, text in enumerate(questions)]
        self._step = 0

    def __call__(self, around: Callable[[str], Any] | None = None) -> dict[str, Any]:
        """One step: sample, reward, advantage, update, and the new weights to the sampler."""
        case, step, parts = self._case, self._step, Parts(around=around)
        prompts = self._prompts[step * case.prompts : (step + 1) * case.prompts]
        step_work.reset_peak_memory()
        begun, worked = time.perf_counter(), time.process_time()
        with parts("sample"):
            rollouts = self._environment.rollout(
                self._policy, self._sampler, prompts, case.group_size, self._spec,
                seed=step_work.SEED, stage="grpo", step=step + 1,
            )  # fmt: skip
        with parts("reward"):
            rewards = self._reward.score(rollouts, RewardContext(step, len(self._prompts)))
        with parts("advantage"):
            advantages = self._algorithm.advantages(rewards.totals, rollouts)
        with parts("update"):
            report = self._algorithm.update(self._learner, rollouts, advantages, self._spec)
        with parts("sync"):
            self._sampler.sync(self._learner.version)
        seconds, processor = time.perf_counter() - begun, time.process_time() - worked
        memory = step_work.memory_bytes()
        self._step += 1
        paths = rollout_paths(rollouts, np.arange(len(rollouts)))
        rows = pack(paths, self.configuration.row_tokens, share=self.configuration.share_prompts)
        return {
            "seconds": seconds,
            "processor_seconds": processor,
            "parts": {**parts.seconds, **{f"update/{name}": value for name, value in report.seconds.items()}},
            "memory": memory,
            "generated_tokens": int(rollouts.sampled_counts.sum()),
            "tokens_seen": int(sum(len(group.prompt_ids) for group in rollouts.groups) * case.group_size)
            + int(rollouts.token_ids.lengths.sum()),
            "responses_with_advantage": int(np.sum(np.abs(advantages.per_response()) > 0)),
            "learner_positions": sum(len(row) for row in rows),
            "learner_positions_unshared": sum(len(path) for path in paths),
            "mismatch": report.metrics["mismatch/mean_abs"],
            "questions": step_work.digest([prompt.messages[0].content for prompt in prompts]),
        }

    def close(self) -> None:
        """Closes the sampler."""
        self._sampler.close()


def profile(case: Case, model: str, rows: int) -> None:
    """Prints the operators of a warm step, part by part."""
    folder = PretrainedModel(model).fetch()
    steps = Steps(case, model, step_work.questions(case, 3 * case.prompts, folder))
    steps()
    timed = steps()
    print({name: round(value, 3) for name, value in {"step": timed["seconds"], **timed["parts"]}.items()})

    @contextmanager
    def profiled(name: str) -> Iterator[None]:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as taken:
            yield
        if name in ("sample", "update", "sync"):
            print(f"\n== {name}")
            print(taken.key_averages().table(sort_by="self_cpu_time_total", row_limit=rows, max_name_column_width=60))

    steps(profiled)
    steps.close()


def main() -> None:
    """Answers calls, the first of which says what the work is; or profiles."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--case", choices=step_work.CASES, default="short")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--rows", type=int, default=18, help="operators to print")
    arguments = parser.parse_args()
    if arguments.profile:
        model = str(Path(arguments.model).resolve()) if Path(arguments.model).is_dir() else arguments.model
        profile(step_work.CASES[arguments.case], model, arguments.rows)
        return
    calls = Calls()
    setup = calls.next()
    assert setup is not None
    steps = Steps(step_work.CASES[setup["case"]], setup["model"], setup["questions"])
    calls.answer(
        {"versions": versions(), "threads": torch.get_num_threads(), "learner": repr(steps.configuration),
         "sampler": repr(TorchSampler())}
    )  # fmt: skip
    step_work.serve(steps, calls)
    steps.close()


if __name__ == "__main__":
    main()
