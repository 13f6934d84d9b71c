"""The probe of answers between steps: what it asks, after which tokens, and what it makes of the answers."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest

from thinkrl.companions.companion import CompanionStart
from thinkrl.companions.step_probe import OpenStepProbe, StepProbe
from thinkrl.environments.decoding import Decoder
from thinkrl.environments.forced_answers import ForcedAnswers
from thinkrl.grading.number import NumberGrader
from thinkrl.models.policy import Policy
from thinkrl.models.tiny import TinyModel
from thinkrl.rewards.correctness import Correctness
from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.steps import TriggerWordSteps
from thinkrl.rollouts.store import FinishReason, Group, Origin, Response, Rollouts
from thinkrl.sampling.sampler import Sample, SampleRequest, SamplingSpec

STEPS = TriggerWordSteps(words=("wait",), first_after=1, apart=1)
ANSWERS = ForcedAnswers(insert="</think><answer>", answers=4, answer_tokens=16)


class Asked:
    """Answers 7 in as many of four samples as there are sums in the thinking it continues, else 8."""

    version = 0

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.texts: list[str] = []
        self.specs: list[SamplingSpec] = []

    def sample(self, requests: Sequence[SampleRequest], spec: SamplingSpec) -> list[list[Sample]]:
        self.specs.append(spec)
        return [self._answers(request) for request in requests]

    def _answers(self, request: SampleRequest) -> list[Sample]:
        text = Decoder(self.policy.tokenizer).decode(request.prompt_ids.tolist())
        self.texts.append(text)
        right = text.count("=")
        return [self._answer("7" if number < right else "8") for number in range(len(request.stream_keys))]

    def _answer(self, digit: str) -> Sample:
        ids = self.policy.tokenizer.encode(f"{digit}</answer>", add_special_tokens=False)
        ids = np.asarray([*ids, self.policy.tokenizer.eos_token_id], dtype=np.int32)
        zeros = np.zeros(len(ids), dtype=np.float32)
        return Sample(ids, zeros, zeros, FinishReason.STOP, 0)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return TinyModel(tokenizer="character", hidden=16, intermediate=16, layers=1, heads=2).load(seed=0)


def thought(policy: Policy, row: int, text: str, finish: FinishReason = FinishReason.STOP, given: int = 0) -> Response:
    ids = policy.tokenizer.encode(text, add_special_tokens=False)
    ends = Decoder(policy.tokenizer).char_ends(ids, text)
    if finish is FinishReason.STOP:
        ids, ends = [*ids, policy.tokenizer.eos_token_id], np.append(ends, len(text)).astype(np.int32)
    n = len(ids)
    sampled = np.arange(n) >= given
    return Response(
        response_id=f"1/p/{row}",
        group_id="1/p",
        text=text,
        finish_reason=finish,
        token_ids=np.asarray(ids, dtype=np.int32),
        origins=np.where(sampled, Origin.SAMPLED, Origin.GIVEN).astype(np.uint8),
        logprobs=np.zeros(n, np.float32),
        entropies=np.zeros(n, np.float32),
        versions=np.zeros(n, np.int32),
        char_ends=np.asarray(ends, dtype=np.int32),
    )


def rollouts(policy: Policy, *responses: Response) -> Rollouts:
    prompt = np.asarray(policy.tokenizer.encode("q:"), dtype=np.int32)
    return Rollouts.from_responses([Group("1/p", Prompt("p", (), 7), prompt)], responses)


def opened(policy: Policy, **changes: Any) -> tuple[OpenStepProbe, Asked]:
    sampler, nothing = Asked(policy), cast(Any, None)
    start = CompanionStart(policy, nothing, nothing, 10, 0, nothing, SamplingSpec(temperature=0.5), "grpo")
    start = CompanionStart(**{**vars(start), "sampler": sampler})
    config = StepProbe(Correctness(NumberGrader()), STEPS, ANSWERS, **changes)
    return cast(OpenStepProbe, config.open(start)), sampler


TEXT = "<think>1=1\nwait, 2=2\nso\nwait 3</think><answer>7</answer>"


@pytest.mark.parametrize("given", [0, 1])
def test_it_asks_before_each_step_and_after_the_thinking(policy: Policy, given: int) -> None:
    probe, sampler = opened(policy)
    found = probe.signals(rollouts(policy, thought(policy, 0, TEXT, given=given)))["step_accuracies"]
    closed = "</think><answer>"
    assert sampler.texts == [
        "q:<think>1=1\n" + closed,
        "q:<think>1=1\nwait, 2=2\nso\n" + closed,
        "q:<think>1=1\nwait, 2=2\nso\nwait 3" + closed,
    ]
    assert found[0].tolist() == [0.25, 0.5, 0.5]
    assert (sampler.specs[0].temperature, sampler.specs[0].max_new_tokens) == (0.5, 16)


def test_its_steps_are_those_of_the_reward(policy: Policy) -> None:
    from thinkrl.rewards.step_gains import StepGains
    from thinkrl.rewards.term import RewardContext

    probe, _ = opened(policy)
    batch = rollouts(policy, thought(policy, 0, TEXT), thought(policy, 1, "<think>5</think>"))
    scores = StepGains(STEPS).score(batch, RewardContext(signals=probe.signals(batch)))
    assert scores.notes[0] == "gains 0.25 0"
    paid = scores.tokens[0]  # type: ignore[index]
    first = batch.char_ends[0].tolist().index(TEXT.index("wait") + 1)
    assert np.flatnonzero(paid).tolist() == [first]


def test_a_response_without_a_step_is_not_asked(policy: Policy) -> None:
    probe, sampler = opened(policy)
    batch = rollouts(policy, thought(policy, 0, "<think>1=1</think><answer>7</answer>"), thought(policy, 1, "wait"))
    assert [len(row) for row in probe.signals(batch)["step_accuracies"]] == [0, 0]
    assert sampler.specs == []
    assert probe.learn(batch, cast(Any, None), cast(Any, None)) == {"states": 0.0, "tokens": 0.0}


@pytest.mark.parametrize("finish", [FinishReason.LENGTH, FinishReason.STOP])
def test_thinking_that_does_not_end_is_closed_at_its_end(policy: Policy, finish: FinishReason) -> None:
    probe, sampler = opened(policy)
    text = "<think>1=1\nwait, 2"
    found = probe.signals(rollouts(policy, thought(policy, 0, text, finish)))["step_accuracies"]
    assert sampler.texts[-1] == f"q:{text}</think><answer>"
    assert found[0].tolist() == [0.25, 0.25]


def test_rows_keep_their_own_accuracies_and_what_was_asked_is_counted(policy: Policy) -> None:
    probe, _ = opened(policy)
    batch = rollouts(
        policy,
        thought(policy, 0, "<think>a</think>"),
        thought(policy, 1, "<think>1=1=1\nwait</think>"),
        thought(policy, 2, TEXT),
    )
    found = probe.signals(batch)["step_accuracies"]
    assert [row.tolist() for row in found] == [[], [0.5, 0.5], [0.25, 0.5, 0.5]]
    asked = probe.learn(batch, cast(Any, None), cast(Any, None))
    assert asked == {"states": 5.0, "tokens": 5 * 4 * 3.0}  # each answer is a digit, a tag and a stop token


def test_a_prompt_that_opens_the_thinking(policy: Policy) -> None:
    steps = TriggerWordSteps(words=("wait",), first_after=1, apart=1, prefix="<think>")
    probe, sampler = opened(policy, prefix="<think>")
    object.__setattr__(probe._config, "steps", steps)
    found = probe.signals(rollouts(policy, thought(policy, 0, "1=1\nwait</think>")))["step_accuracies"]
    assert sampler.texts == ["q:1=1\n</think><answer>", "q:1=1\nwait</think><answer>"]
    assert found[0].tolist() == [0.25, 0.25]
