"""Trees side by side equal trees alone, samples have streams of their own, what cannot be used is asked again."""

import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from thinkrl.data.chat import ChatRenderer
from thinkrl.models.tiny import TinyModel, tiny_tokenizer
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.store import FinishReason
from thinkrl.rollouts.streams import stream_key
from thinkrl.sampling.sampler import Sample, SampleRequest, SamplingSpec
from thinkrl.sampling.torch_sampler import TorchSampler
from thinkrl.search.growth import Growth
from thinkrl.search.method import SearchMethod
from thinkrl.search.sampled_solutions import SampledSolutions
from thinkrl.search.steps import StepRule
from thinkrl.search.tree import Tree, read_tree
from thinkrl.search.tree_search import ValueGuidedSearch

torch.set_num_threads(1)
TINY = TinyModel(hidden=32, intermediate=48, layers=2, heads=2, kv_heads=2, tokenizer="character", device="cpu")
PROMPTS = [Prompt(f"p{place}", (Message("user", f"{place}+1"),), str(place + 1)) for place in range(4)]
GUIDED = ValueGuidedSearch(rounds=4, branches=2, forward=2, look_branches=2)
# A random model writes a letter as likely as another: "e" ends a step soon enough.
RULE = StepRule(delimiter="e", solution_tokens=40, tries=2)


def values(prompts: Sequence[Prompt], texts: Sequence[str]) -> NDArray[np.float64]:
    """A number of each text that looks drawn, some of them outside 0 and 1."""
    return np.asarray([stream_key(text) % 1000 / 800 - 0.1 for text in texts])


def opened(stage: str = "s") -> Growth:
    policy = TINY.load(seed=3)
    sampler = TorchSampler(batch_size=16).open(policy)
    return Growth(policy, sampler, SamplingSpec(max_new_tokens=8), RULE, values, 0, stage)


def written(trees: Sequence[Tree]) -> list[str]:
    return [json.dumps(tree.written(ids=True)) for tree in trees]


def grown(growth: Growth, trees: Sequence[Tree], method: SearchMethod = GUIDED) -> Sequence[Tree]:
    while growth.grow(trees, method):
        pass
    return trees


@pytest.mark.parametrize("method", [GUIDED, SampledSolutions(samples=3, rounds=2)], ids=["guided", "sampled"])
def test_side_by_side_or_alone_in_any_order(method: SearchMethod) -> None:
    growth = opened()
    together = written(grown(growth, [growth.plant(prompt) for prompt in PROMPTS], method))
    alone = [written(grown(growth, [growth.plant(prompt)], method))[0] for prompt in PROMPTS]
    assert together == alone
    assert written(grown(growth, [growth.plant(prompt) for prompt in PROMPTS[::-1]], method))[::-1] == alone
    assert len(set(together)) == len(PROMPTS)


def test_a_tree_goes_on_from_what_was_written_of_it() -> None:
    growth = opened()
    whole = written(grown(growth, [growth.plant(prompt) for prompt in PROMPTS]))
    parted = [growth.plant(prompt) for prompt in PROMPTS]
    for _ in range(2):
        growth.grow(parted, GUIDED)
    again = [read_tree(json.loads(text)) for text in written(parted)]
    assert written(grown(opened(), again)) == whole


def test_another_stage_draws_other_trees() -> None:
    first, other = opened("s"), opened("t")
    assert written(grown(first, [first.plant(PROMPTS[0])])) != written(grown(other, [other.plant(PROMPTS[0])]))


def test_values_are_cut_off_and_texts_are_those_of_the_tokens() -> None:
    growth = opened()
    trees = grown(growth, [growth.plant(prompt) for prompt in PROMPTS])
    nodes = [node for tree in trees for node in tree.root.walk() if node.parent is not None]
    assert len(nodes) > 12
    assert all(0.0 <= node.value <= 1.0 for node in nodes)
    decode: Any = growth.policy.tokenizer.decode
    for node in nodes:
        shown = [token for token in node.beginning_ids if token not in growth.policy.stop_ids]
        assert decode(shown, clean_up_tokenization_spaces=False) == node.beginning
        assert len(node.token_ids) <= 8
    assert all(tree.tokens >= sum(len(n.token_ids) for n in tree.root.walk()) for tree in trees)
    assert all(tree.rounds == 4 and tree.proposals >= tree.dropped for tree in trees)


class Script:
    """Says the next text of a script at each sample, and remembers the requests."""

    def __init__(self, tokenizer: Any, *texts: str) -> None:
        self.tokenizer, self.texts = tokenizer, list(texts)
        self.asked: list[SampleRequest] = []
        self.specs: list[SamplingSpec] = []

    def sample(self, requests: Sequence[SampleRequest], spec: SamplingSpec) -> list[list[Sample]]:
        self.asked += requests
        self.specs.append(spec)
        return [[self.said(self.texts.pop(0)) for _ in request.stream_keys] for request in requests]

    def said(self, text: str) -> Sample:
        ids = np.asarray(self.tokenizer(text.rstrip("~"), add_special_tokens=False)["input_ids"], dtype=np.int32)
        if text.endswith("."):
            ids = np.append(ids[:-1], np.int32(self.tokenizer.eos_token_id))
        blank = np.zeros(len(ids), np.float32)
        return Sample(ids, blank, blank, FinishReason.LENGTH if text.endswith("~") else FinishReason.STOP, 0)


def half(prompts: Sequence[Prompt], texts: Sequence[str]) -> NDArray[np.float64]:
    return np.full(len(texts), 0.5)


def scripted(*texts: str, rule: StepRule | None = None) -> tuple[Growth, Script]:
    tokenizer = tiny_tokenizer("character", ("<think>", "</think>", "<answer>", "</answer>"))
    policy: Any = SimpleNamespace(tokenizer=tokenizer, stop_ids=frozenset({tokenizer.eos_token_id}))
    sampler: Any = Script(tokenizer, *texts)
    spec: Any = SamplingSpec(max_new_tokens=9)
    growth = Growth(policy, sampler, spec, rule or StepRule(), half, 5, "s")
    return growth, sampler


def test_steps_continue_the_tokens_before_them() -> None:
    growth, sampler = scripted("ab\n", "cd\n", "<answer>7</answer>.")
    tree = growth.plant(PROMPTS[0])
    grown(growth, [tree], ValueGuidedSearch(rounds=2, branches=1, forward=0))
    prompt = ChatRenderer(growth.policy.tokenizer).prompt_ids(PROMPTS[0].messages).tolist()
    first, second = (request.prompt_ids.tolist() for request in sampler.asked)
    assert first == prompt
    assert second == prompt + growth.policy.tokenizer("ab\n", add_special_tokens=False)["input_ids"]
    assert all(spec.stop == ("\n",) and spec.max_new_tokens == 9 for spec in sampler.specs)
    assert (tree.asked, tree.proposals, tree.tokens) == (2, 2, 6)
    keys = [request.stream_keys for request in sampler.asked]
    assert keys == [(stream_key("search", 5, "s", "p0", asked, 0, 0, 0),) for asked in (0, 1)]


def test_a_step_that_cannot_be_used_is_sampled_again_with_a_stream_of_its_own() -> None:
    growth, sampler = scripted(" \n", "ab\n", "", "x\n", rule=StepRule(tries=3))
    tree = growth.plant(PROMPTS[0])
    grown(growth, [tree], ValueGuidedSearch(rounds=1, branches=2, forward=0))
    # Both candidates, the first one again and again: blank, blank, then a step.
    assert [len(request.stream_keys) for request in sampler.asked] == [2, 1, 1]
    assert [node.text for node in tree.root.children] == ["x\n", "ab\n"]
    assert (tree.proposals, tree.dropped) == (4, 2)
    assert sampler.asked[1].stream_keys == (stream_key("search", 5, "s", "p0", 0, 0, 0, 1),)


def test_tries_end_and_the_beginning_is_then_an_end() -> None:
    growth, _ = scripted("ab\n", "ab\n", "ab\n", rule=StepRule(tries=2))
    tree = growth.plant(PROMPTS[0])
    grown(growth, [tree], ValueGuidedSearch(rounds=2, branches=1, forward=0))
    (step,) = tree.root.children
    assert (step.end, step.children, tree.dropped) == ("stuck", [], 2)


def test_ends_by_the_policy_by_the_text_and_by_the_limit() -> None:
    growth, _ = scripted("a.", "</answer>\n", "b~")
    tree = growth.plant(PROMPTS[0])
    grown(growth, [tree], ValueGuidedSearch(rounds=1, branches=3, forward=0))
    ends = [(node.text, node.end) for node in tree.root.children]
    assert ends == [("a", "finished"), ("</answer>\n", "finished"), ("b", "")]
    assert (tree.cut, tree.root.children[0].token_ids[-1]) == (1, growth.policy.tokenizer.eos_token_id)


def test_whole_solutions_are_taken_as_they_come() -> None:
    growth, sampler = scripted("a\nb.", "  ", "a\nc~", rule=StepRule(solution_tokens=30))
    tree = growth.plant(PROMPTS[0])
    grown(growth, [tree], SampledSolutions(samples=3))
    assert [(spec.max_new_tokens, spec.stop) for spec in sampler.specs] == [(30, ())]
    assert [(end.beginning, end.end) for end in tree.ends()] == [("a\nb", "finished"), ("a\nc", "long")]
    assert (tree.dropped, tree.proposals) == (1, 3)


def test_without_a_value_model_values_stay_unknown() -> None:
    growth, _ = scripted("a.")
    object.__setattr__(growth, "value", None)
    tree = growth.plant(PROMPTS[0])
    grown(growth, [tree], SampledSolutions(samples=1))
    assert np.isnan(tree.ends()[0].value)


def test_what_a_template_opens_is_the_root() -> None:
    growth, sampler = scripted("ab\n")
    growth.policy.tokenizer.chat_template += "{% if add_generation_prompt %}{{ '<think>' }}{% endif %}"
    tree = growth.plant(PROMPTS[0])
    grown(growth, [tree], ValueGuidedSearch(rounds=1, branches=1, forward=0))
    assert tree.root.text == "<think>"
    assert tree.root.children[0].beginning == "<think>ab\n"
    assert sampler.asked[0].prompt_ids[-1] == growth.policy.tokenizer.convert_tokens_to_ids("<think>")
