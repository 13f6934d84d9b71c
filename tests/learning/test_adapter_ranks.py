"""Adapters on two processes: the gradient, the weights and the state are those of one process."""

import multiprocessing
import socket
import sys
from pathlib import Path

import pytest
import torch

from thinkrl.learning.adapters import Adapter
from thinkrl.parallel.place import Place
from thinkrl.parallel.ranks import joined

SETTINGS = {"row_tokens": 24, "micro_batch_tokens": 24, "learning_rate": 0.01, "adapter": Adapter(rank=4, dora=True)}


def learned(optimizer):
    """The state after two updates, one of them after a resume, and the exported weights."""
    from tiny_policy import make_rollouts, open_learner, random_advantages, tiny_policy

    from thinkrl.algorithms.kl import KLLoss
    from thinkrl.algorithms.objective import ClippedObjective
    from thinkrl.sampling.sampler import SamplingSpec

    saved, norms = None, []
    for step in range(2):
        learner = open_learner(tiny_policy(), with_reference=True, optimizer=optimizer, **SETTINGS)
        if saved is not None:
            learner.load_state(saved)
        rollouts = make_rollouts((3, 4, 2), seed=step)
        objective = ClippedObjective(kl=KLLoss(0.1))
        norms.append(learner.update(rollouts, random_advantages(rollouts), objective, SamplingSpec()).gradient_norm)
        saved = learner.state()
    return saved.tensors, dict(learner.weights()), norms


def work(rank, port, optimizer, folder):
    sys.path.insert(0, str(Path(__file__).parent))
    torch.set_num_threads(1)
    with joined(Place(rank, 2, rank, "localhost", port), 60.0):
        torch.save(learned(optimizer), folder / f"rank{rank}.pt")


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_two_processes_learn_what_one_does(optimizer, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["thinkrl.learning.torch_learner"])
    processes = [context.Process(target=work, args=(rank, port, optimizer, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    tensors, weights, norms = learned(optimizer)
    (first, first_weights, first_norms), (second, second_weights, second_norms) = (
        torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)
    )
    assert second == {}
    assert first_norms == second_norms == pytest.approx(norms, rel=1e-5)
    assert first.keys() == tensors.keys()
    assert torch.equal(first["adapter_base"], tensors["adapter_base"])
    assert all(torch.equal(first_weights[name], second_weights[name]) for name in weights)
    # A sign of Adam's first step hangs on rounding where a gradient is near 0.
    moved = sum(float((weights[name] - first_weights[name]).norm() ** 2) for name in weights) ** 0.5
    assert moved < 1e-4 * sum(float(w.norm() ** 2) for w in weights.values()) ** 0.5
