"""Thinking cut at budgets, and answers from there: which tokens are whose, and in what order."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from thinkrl.environments.anytime import AnytimeThinking
from thinkrl.environments.forced_answers import ForcedAnswers, share_of
from thinkrl.environments.single_turn import SingleTurn
from thinkrl.models.tiny import TinyModel
from thinkrl.rollouts.cuts import Cut
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.store import FinishReason, Origin, Rollouts
from thinkrl.rollouts.streams import stream_key
from thinkrl.sampling.sampler import Sample, SampleRequest, SamplingSpec, ThinkingBudget
from thinkrl.sampling.torch_sampler import TorchSampler

PROMPTS = [Prompt(name, (Message("user", f"{name}?"),), "1") for name in ("a", "b")]


class Thinker:
    """Thinks the given thoughts, each cut at the limit of what it is asked for, then answers 0, 1, 2, ... in turn."""

    version = 7

    def __init__(self, tokenizer: Any, thoughts: Sequence[str]) -> None:
        self.tokenizer, self.thoughts = tokenizer, list(thoughts)
        self.asked: list[list[SampleRequest]] = []
        self.specs: list[SamplingSpec] = []

    def sample(self, requests: Sequence[SampleRequest], spec: SamplingSpec) -> list[list[Sample]]:
        self.asked.append(list(requests))
        self.specs.append(spec)
        texts = iter(self.thoughts if len(self.asked) == 1 else map(str, range(10**6)))
        return [[self._one(next(texts), spec) for _ in request.stream_keys] for request in requests]

    def _one(self, text: str, spec: SamplingSpec) -> Sample:
        ids = np.asarray(self.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32)
        reason = FinishReason.LENGTH if len(ids) > spec.max_new_tokens else FinishReason.STOP
        ids = ids[: spec.max_new_tokens]
        return Sample(ids, -np.arange(1, len(ids) + 1, dtype=np.float32), np.ones(len(ids), np.float32), reason, 7)

    def sync(self, version: int) -> str:
        return ""

    def close(self) -> None:
        pass


FORCED = ForcedAnswers(insert="..</think><answer>", insert_after_end="<answer>", answers=2, answer_tokens=4)


def roll(
    policy: Any, sampler: Any, *, size: int = 1, limit: int = 8, prompts: Sequence[Prompt] = PROMPTS[:1], **fields: Any
) -> Rollouts:
    environment = AnytimeThinking(**{"answers": FORCED, **fields})
    spec = SamplingSpec(max_new_tokens=limit)
    return environment.rollout(policy, sampler, prompts, size, spec, seed=5, stage="grpo", step=3)


def given_text(policy: Any, rollouts: Rollouts, row: int, origin: Origin) -> str:
    response = rollouts.response(row)
    return str(policy.tokenizer.decode(response.token_ids[response.origins == origin]))


def test_a_long_thinking_is_cut_at_every_budget(policy: Any) -> None:
    sampler = Thinker(policy.tokenizer, ["abcdefghij"])
    rollouts = roll(policy, sampler)
    assert len(rollouts) == 8
    assert rollouts.response_ids[:3] == ("3/a/0/0/0", "3/a/0/0/1", "3/a/0/1/0")
    assert rollouts.texts[0] == "ab..</think><answer>0"
    assert rollouts.texts[2:5] == ("abcd..</think><answer>2", "abcd..</think><answer>3", "abcdef..</think><answer>4")
    assert rollouts.texts[7] == "abcdefgh..</think><answer>7"
    assert rollouts.cuts == tuple(Cut("3/a/0", budget, budget) for budget in (2, 4, 6, 8) for _ in range(2))
    assert [len(request.stream_keys) for request in sampler.asked[1]] == [2] * 4
    assert len(rollouts.groups) == 1
    # What is asked is the prompt, the ids as they were sampled, and the insertion.
    ids = [*rollouts.groups[0].prompt_ids.tolist(), *rollouts.token_ids[2].tolist()]
    assert sampler.asked[1][1].prompt_ids.tolist() == ids[:-1]


def test_the_thinking_is_sampled_once_and_inserted_text_never(policy: Any) -> None:
    rollouts = roll(policy, Thinker(policy.tokenizer, ["abcdefghij"]))
    owner = 6  # the first answer that keeps all of it
    for row in range(8):
        text = given_text(policy, rollouts, row, Origin.SAMPLED)
        assert text == (f"abcdefgh{row}" if row == owner else str(row))
    assert given_text(policy, rollouts, owner, Origin.GIVEN) == "..</think><answer>"
    assert rollouts.sampled.sum() == 8 + 8
    for response in rollouts:
        drawn = response.origins == Origin.SAMPLED
        assert np.array_equal(np.isnan(response.logprobs), ~drawn)
        assert np.array_equal(np.isnan(response.entropies), ~drawn)
        assert np.array_equal(response.versions, np.where(drawn, 7, -1))
        assert response.char_ends[-1] == len(response.text)
    assert rollouts.logprobs[owner][:8].tolist() == [-1, -2, -3, -4, -5, -6, -7, -8]


def test_budgets_beyond_the_end_meet_and_share_their_answers_in_order(policy: Any) -> None:
    """Three tokens and the end: the first budget cuts, the other three meet there; six answers, dealt out in order."""
    sampler = Thinker(policy.tokenizer, ["abc</think>"])
    rollouts = roll(policy, sampler, limit=8)
    assert rollouts.texts[1] == "ab..</think><answer>1"
    assert rollouts.texts[2:] == tuple(f"abc</think><answer>{n}" for n in range(2, 8))
    assert [cut.budget for cut in rollouts.cuts if cut] == [2, 2, 4, 4, 6, 6, 8, 8]
    assert [cut.kept for cut in rollouts.cuts if cut] == [2, 2, 4, 4, 4, 4, 4, 4]
    assert [len(request.stream_keys) for request in sampler.asked[1]] == [2, 6]
    keys = [key for request in sampler.asked[1] for key in request.stream_keys]
    assert keys[:3] == [stream_key("answer", 5, "grpo", "3/a/0", *place) for place in ((0, 0), (0, 1), (1, 0))]
    assert len(set(keys)) == 8
    assert given_text(policy, rollouts, 2, Origin.SAMPLED) == "abc</think>2"
    assert given_text(policy, rollouts, 3, Origin.SAMPLED) == "3"


def test_thinking_as_long_as_a_budget_is_whole_there(policy: Any) -> None:
    rollouts = roll(policy, Thinker(policy.tokenizer, ["a</think>"]))
    assert set(rollouts.texts) == {f"a</think><answer>{n}" for n in range(8)}
    # At the limit without its end, it is closed for the policy.
    cut = roll(policy, Thinker(policy.tokenizer, ["abcdefghi"]))
    assert cut.texts[6].startswith("abcdefgh..</think>")


def test_thinking_that_a_stop_token_ended_is_not_closed(policy: Any) -> None:
    """Its answers come after no end of thinking, so that a format term pays none of them."""
    rollouts = roll(policy, Thinker(policy.tokenizer, ["ab<|im_end|>"]))
    assert rollouts.texts[0] == "ab..</think><answer>0"
    assert rollouts.texts[2] == "ab<|im_end|><answer>2"
    assert given_text(policy, rollouts, 2, Origin.SAMPLED) == "ab<|im_end|>2"


def test_what_is_asked_of_the_sampler(policy: Any) -> None:
    sampler = Thinker(policy.tokenizer, ["abcdefghij"] * 4)
    spec = SamplingSpec(temperature=0.7, top_p=0.9, max_new_tokens=8, stop=("!",))
    AnytimeThinking(answers=FORCED).rollout(policy, sampler, PROMPTS, 2, spec, seed=0, stage="s", step=1)
    thinking, answers = sampler.specs
    assert thinking == SamplingSpec(temperature=0.7, top_p=0.9, max_new_tokens=8, stop=("!", "</think>"))
    assert answers == SamplingSpec(temperature=0.7, top_p=0.9, max_new_tokens=4, stop=("!",))


def test_given_tokens_before_the_thinking_cost_no_budget(policy: Any) -> None:
    sampler = Thinker(policy.tokenizer, ["abcdefghij"])
    rollouts = roll(policy, sampler, thinking=SingleTurn(response_prefix="<think>\n"))
    assert rollouts.texts[0] == "<think>\nab..</think><answer>0"
    assert [cut.kept for cut in rollouts.cuts if cut][:3] == [4, 4, 6]
    assert given_text(policy, rollouts, 6, Origin.GIVEN) == "<think>\n..</think><answer>"


def test_budgets_can_be_drawn_for_each_prompt(policy: Any) -> None:
    prompts = [Prompt(str(n), (Message("user", "?"),), "1") for n in range(40)]
    rollouts = roll(policy, Thinker(policy.tokenizer, ["abcdefghij"] * 80), size=2, prompts=prompts, drawn=2)
    assert len(rollouts) == 40 * 2 * 2 * 2
    sets = []
    for rows in rollouts.rows_by_group().values():
        budgets = [cut.budget for row in rows if (cut := rollouts.cuts[row]) is not None]
        assert budgets[:4] == budgets[4:]  # both thoughts of a prompt have the same
        sets.append(tuple(sorted(set(budgets))))
    assert {len(found) for found in sets} == {2}
    assert len(set(sets)) == 6  # every pair is drawn
    again = roll(policy, Thinker(policy.tokenizer, ["abcdefghij"] * 2), size=2, prompts=prompts[7:8], drawn=2)
    assert tuple(sorted({cut.budget for cut in again.cuts if cut})) == sets[7]


def test_a_response_with_its_answer_is_cut_in_its_thinking(policy: Any) -> None:
    """As a probe does it: the answer that was given is left out."""
    sampler = Thinker(policy.tokenizer, ["abc</think><answer>9</answer><|im_end|>"])
    thoughts = SingleTurn().rollout(policy, sampler, PROMPTS[:1], 1, SamplingSpec(max_new_tokens=40), 0, "s", 0)
    assert FORCED.thinking(thoughts.response(0)) == (4, True)
    rollouts = FORCED.answer(policy, sampler, thoughts, [[0, 3, 4]], SamplingSpec(), 0, "s")
    assert rollouts.texts == (
        "..</think><answer>0", "..</think><answer>1", "abc..</think><answer>2", "abc..</think><answer>3",
        "abc</think><answer>4", "abc</think><answer>5",
    )  # fmt: skip
    assert len(FORCED.answer(policy, sampler, thoughts, [[]], SamplingSpec(), 0, "s")) == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"budgets": ()}, "budgets must be numbers that rise within 0 to 1"),
        ({"budgets": (0.5, 0.5)}, "budgets must be numbers that rise"),
        ({"budgets": (0.5, 1.5)}, "budgets must be numbers that rise"),
        ({"drawn": 5}, "drawn must be from 1 to the 4 budgets, got 5"),
    ],
)
def test_bad_budgets_are_refused(fields: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AnytimeThinking(**fields)


def test_what_cannot_be_cut_is_refused(policy: Any) -> None:
    with pytest.raises(ValueError, match=r"budgets must differ in tokens, got \[1, 1, 2, 2\]"):
        roll(policy, Thinker(policy.tokenizer, ["a"]), limit=2)
    spec = SamplingSpec(max_new_tokens=8, budget=ThinkingBudget(2, "x"))
    with pytest.raises(ValueError, match=r"sampling\.budget must be null"):
        AnytimeThinking().rollout(policy, Thinker(policy.tokenizer, ["a"]), PROMPTS, 1, spec, 0, "s", 1)
    with pytest.raises(ValueError, match="answers must be at least 1, got 0"):
        ForcedAnswers(answers=0)
    with pytest.raises(ValueError, match="answer_tokens must be at least 1, got 0"):
        ForcedAnswers(answer_tokens=0)
    with pytest.raises(ValueError, match="insert must not be empty"):
        ForcedAnswers(insert="")


def test_shares_are_rounded_up_and_not_by_the_last_bit() -> None:
    assert share_of((0.25, 0.5, 0.75, 1.0), 8000) == [2000, 4000, 6000, 8000]
    assert share_of((0.0, 0.1, 0.3, 0.7), 30) == [0, 3, 9, 21]
    assert share_of((0.5, 1.0), 3) == [2, 3]


def test_a_real_sampler_gives_the_same_whatever_stands_beside_it() -> None:
    torch.set_num_threads(1)
    policy = TinyModel(hidden=32, intermediate=64, layers=1, heads=2, kv_heads=1).load(seed=0)
    sampler = TorchSampler(batch_size=4).open(policy)
    together = roll(policy, sampler, size=2, prompts=PROMPTS)
    alone = roll(policy, sampler, size=1, prompts=PROMPTS[1:])
    assert len(alone) == 8
    for row, response in enumerate(alone):
        beside = together.response(16 + row)
        assert response.response_id == beside.response_id
        assert np.array_equal(response.token_ids, beside.token_ids)
    for response in together:
        stopped = response.finish_reason is FinishReason.STOP and response.token_ids[-1] in policy.stop_ids
        shown = response.token_ids[:-1] if stopped else response.token_ids
        assert policy.tokenizer.decode(shown) == response.text
        assert response.char_ends[-1] == len(response.text)
