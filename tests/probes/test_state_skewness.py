"""Phi of a policy's states, against the same read off the model token by token."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from thinkrl.models.tiny import TinyModel
from thinkrl.probes.action_entropy import phi
from thinkrl.probes.state_skewness import measure_states
from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.store import FinishReason, Group, Origin, Response, Rollouts
from thinkrl.sampling.sampler import SamplingSpec

torch.set_num_threads(1)


def response(name: str, ids: list[int], origins: list[int]) -> Response:
    n = len(ids)
    return Response(name, "g", "", FinishReason.STOP, np.asarray(ids, np.int32), np.asarray(origins, np.uint8),
                    np.zeros(n, np.float32), np.zeros(n, np.float32), np.zeros(n, np.int32),
                    np.zeros(n, np.int32))  # fmt: skip


@pytest.fixture(scope="module")
def module() -> Any:
    return TinyModel(hidden=32, intermediate=48, layers=1, heads=2, kv_heads=2, tokenizer="character").load().module


@pytest.mark.parametrize("spec", [SamplingSpec(), SamplingSpec(temperature=0.5), SamplingSpec(top_k=3)])
def test_each_sampled_token_is_measured_where_it_was_drawn(module: Any, spec: SamplingSpec) -> None:
    prompt = np.asarray([5, 9, 11], np.int32)
    given, drawn = int(Origin.GIVEN), int(Origin.SAMPLED)
    batch = Rollouts.from_responses(
        [Group("g", Prompt("p", ()), prompt)],
        [response("a", [7, 8], [drawn, drawn]), response("b", [12, 13, 14], [given, drawn, drawn])],
    )
    found = measure_states(module, batch, spec)
    wanted = []
    for before in ([5, 9, 11], [5, 9, 11, 7], [5, 9, 11, 12], [5, 9, 11, 12, 13]):
        with torch.no_grad():
            logits = module(torch.tensor([before])).logits[0, -1].double() / spec.temperature
        if spec.top_k:
            logits[logits < logits.topk(spec.top_k).values[-1]] = -math.inf
        p = logits.softmax(-1).numpy()
        wanted.append((*map(float, phi(p)), float(-np.sum(p[p > 0] * np.log(p[p > 0]))), p.max()))
    measured = np.stack([found.phi, found.actions, found.entropies, found.largest], axis=1)
    assert measured == pytest.approx(np.asarray(wanted), rel=1e-4, abs=1e-5)
    if spec.top_k:
        assert found.actions.tolist() == [3.0] * 4
    metrics = found.metrics()
    assert metrics["states/phi"] == pytest.approx(np.mean(found.phi))
    assert metrics["states/skewed"] == np.mean(found.phi < 0)


def test_no_response_has_no_states(module: Any) -> None:
    batch = Rollouts.from_responses([Group("g", Prompt("p", ()), np.asarray([5], np.int32))], [])
    assert len(measure_states(module, batch, SamplingSpec()).phi) == 0
