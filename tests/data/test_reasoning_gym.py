import json

import pytest

from thinkrl.data.reasoning_gym import ReasoningGymPrompts
from thinkrl.data.source import DataError, question_text

SMALL = {"min_terms": 2, "max_terms": 2, "max_digits": 1}


def test_prompts_are_reasoning_gyms_own_entries() -> None:
    import reasoning_gym

    entry = reasoning_gym.create_dataset("chain_sum", size=5, seed=7)[3]
    prompt = ReasoningGymPrompts("chain_sum", size=5, seed=7).prompts()[3]
    assert prompt.prompt_id == "chain_sum-7-3"
    assert prompt.messages[-1].content == entry["question"]
    assert prompt.reference == entry["answer"]
    assert prompt.metadata["expression"] == entry["metadata"]["expression"]
    assert prompt.source == "reasoning_gym/chain_sum"


def test_the_same_every_time_and_a_smaller_size_is_a_beginning() -> None:
    source = ReasoningGymPrompts("chain_sum", size=40, seed=3)
    assert source.prompts() == source.prompts()
    assert ReasoningGymPrompts("chain_sum", size=10, seed=3).prompts() == source.prompts()[:10]


@pytest.mark.parametrize("task", ["chain_sum", "basic_arithmetic", "gcd", "countdown", "spell_backward"])
def test_prompts_hold_json_values(task: str) -> None:
    for prompt in ReasoningGymPrompts(task, size=3).prompts():
        assert json.loads(json.dumps([prompt.reference, dict(prompt.metadata)], allow_nan=False)) == [
            prompt.reference,
            dict(prompt.metadata),
        ]


def test_questions_are_unique_and_held_out_ones_are_left_out() -> None:
    train = ReasoningGymPrompts("chain_sum", SMALL, size=120, seed=0)
    # The next seed draws entry i from Random(seed + i) too, so all but one of its entries are train's.
    test = ReasoningGymPrompts("chain_sum", SMALL, size=40, seed=1, template="{expression}", disjoint_from=train)
    asked = {question_text(prompt) for prompt in train.prompts()}
    held_out = {question_text(prompt) for prompt in test.prompts()}
    assert len(asked) == 120
    assert len(held_out) == 40
    assert not asked & held_out
    overlapping = ReasoningGymPrompts("chain_sum", SMALL, size=40, seed=1).prompts()
    assert {question_text(prompt) for prompt in overlapping} & asked


def test_too_few_questions_is_a_clear_error() -> None:
    with pytest.raises(DataError, match=r"gave \d+ different questions in \d+ draws, but size is 500"):
        ReasoningGymPrompts("chain_sum", SMALL, size=500).prompts()


def test_template_and_system() -> None:
    source = ReasoningGymPrompts("chain_sum", size=1, system="Be brief.", template="Compute {expression}. Use {x}.")
    prompt = source.prompts()[0]
    assert [turn.role for turn in prompt.messages] == ["system", "user"]
    assert prompt.messages[1].content == f"Compute {prompt.metadata['expression']}. Use {{x}}."


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(DataError, match="no task 'chain_sums'; nearest: chain_sum"):
        ReasoningGymPrompts("chain_sums").prompts()
    with pytest.raises(DataError, match="min_term"):
        ReasoningGymPrompts("chain_sum", {"min_term": 3}).prompts()
    with pytest.raises(DataError, match="max_terms must be"):
        ReasoningGymPrompts("chain_sum", {"min_terms": 9}).prompts()
    with pytest.raises(DataError, match=r"a field such as \{question\}, got '\{questoin\}'"):
        ReasoningGymPrompts("chain_sum", template="{questoin}").prompts()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 0}, "size must be at least 1, got 0"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
        ({"config": {"seed": 1}}, "config must not hold 'seed'"),
        ({"template": "no field"}, "template must contain a field"),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReasoningGymPrompts("chain_sum", **fields)  # type: ignore[arg-type]
