"""The same steps of learning on any number of processes, and all that they leave behind."""

import multiprocessing
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

LEARNING = Path(__file__).parents[1] / "learning"
SETTINGS: dict[str, Any] = {
    "learning_rate": 3e-3, "warmup_steps": 2, "weight_decay": 0.1, "max_gradient_norm": 0.5, "epsilon": 1e-4,
    "row_tokens": 24, "micro_batch_tokens": 24,
}  # fmt: skip


def supervised(step):
    """Examples of very different lengths; the third step has one only, for whichever process gets it."""
    from thinkrl.learning.learner import Example

    rng = np.random.default_rng(step)
    lengths = [(40, 2, 3), (5, 1, 9, 4, 7), (6,)][step % 3]
    return [Example(*(rng.integers(0, 40, n).astype(np.int32) for n in (4, length))) for length in lengths]


def grpo_batch(step):
    """Rollouts and advantages: uneven groups, a single response, and one where no advantage pulls."""
    from tiny_policy import make_rollouts, random_advantages

    rollouts = make_rollouts([(5, 1, 2), (1,), (3, 3)][step % 3], seed=step, given=True)
    advantages = random_advantages(rollouts, excluded=[1] if step % 3 == 0 else [])
    if step % 3 == 2:
        advantages = replace(
            advantages, values=rollouts.token_ids.with_values(np.zeros(len(rollouts.token_ids.values)))
        )
    return rollouts, advantages


def learn(source, *, steps=6, start=None, dtype=torch.float32, kl=True, tie=True):
    """Rows, log-probabilities, states after each step and exported weights of `steps` steps: supervised ones and
    policy-gradient ones in turn. start: the state of an earlier such learning and its step, to go on from."""
    from tiny_policy import tiny_policy

    from thinkrl.algorithms.kl import KLLoss
    from thinkrl.algorithms.objective import ClippedObjective
    from thinkrl.sampling.sampler import SamplingSpec

    objective = (
        ClippedObjective(aggregation="sequence", kl=KLLoss(0.1), entropy_bonus=0.01) if kl else ClippedObjective()
    )
    policy = tiny_policy("qwen2", dtype=dtype, tie=tie)
    learner = source.open(policy, total_steps=8, with_reference=kl)
    first = 0
    if start is not None:
        learner.load_state(start[0])
        first = start[1]
    rows, states = [], []
    for step in range(first, steps):
        if step % 2:
            report = learner.supervise(supervised(step // 2))
        else:
            report = learner.update(*grpo_batch(step // 2), objective, SamplingSpec(temperature=0.8))
        rows.append(report.row())
        states.append(learner.state())
    rollouts, _ = grpo_batch(0)
    streamed = {name: weight.clone() for name, weight in policy.named_weights()}
    policy.refresh_module()
    return {
        "rows": rows,
        "states": [(state.values, state.tensors) for state in states],
        "weights": dict(learner.weights()),
        "logprobs": torch.from_numpy(learner.logprobs(rollouts, SamplingSpec()).values),
        "streamed": streamed,
        "module": {name: p.detach().clone() for name, p in policy.module.named_parameters()},
    }


def run_ranks(count, work, *arguments, seconds=240, results=True):
    """Runs `work(*arguments)` on `count` processes that work together; what each of them returns."""
    import tempfile

    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
        free.close()
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["thinkrl.learning.torch_learner"])
        processes = [
            context.Process(target=_rank, args=(rank, count, port, folder, work, arguments)) for rank in range(count)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(seconds)
            if process.exitcode is None:
                process.kill()
        assert [process.exitcode for process in processes] == [0] * count
        if not results:
            return []
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(count)]


def _rank(rank, count, port, folder, work, arguments):
    sys.path[:0] = [str(LEARNING), str(Path(__file__).parent)]
    torch.set_num_threads(1)
    from thinkrl.parallel.place import Place
    from thinkrl.parallel.ranks import joined

    with joined(Place(rank, count, rank, "localhost", port), 60.0):
        torch.save(work(*arguments), Path(folder) / f"{rank}.pt")
