from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkrl.data.order import PromptOrder, order_prompts
from thinkrl.data.pairs import PairedPrompts, RewrittenColumn
from thinkrl.data.source import DataError, question_text
from thinkrl.rollouts.prompt import Message, Prompt


@dataclass(frozen=True)
class Given:
    rows: tuple[Prompt, ...]

    def prompts(self) -> Sequence[Prompt]:
        return self.rows


def given_rows(*rewritten: str | None) -> Given:
    return Given(
        tuple(
            Prompt(
                f"q{number}",
                (Message("system", "be brief"), Message("user", f"ask {number}")),
                number,
                "s",
                {"question": f"ask {number}", **({} if text is None else {"rewritten": text})},
            )
            for number, text in enumerate(rewritten)
        )
    )


def test_a_question_is_followed_by_its_twin_under_one_pair_id() -> None:
    original, twin = PairedPrompts(given_rows("tell me 0"), RewrittenColumn(), "Well: {question}").prompts()
    assert (original.prompt_id, twin.prompt_id) == ("q0", "q0/rewritten")
    assert original.metadata["pair_id"] == twin.metadata["pair_id"] == "q0"
    assert (original.metadata["side"], twin.metadata["side"]) == ("original", "rewritten")
    assert original.messages[-1] == Message("user", "ask 0")
    assert twin.messages == (Message("system", "be brief"), Message("user", "Well: tell me 0"))
    assert twin.reference == original.reference == 0
    assert (question_text(original), question_text(twin)) == ("ask 0", "tell me 0")


def test_what_cannot_be_read_between_the_marks_leaves_both_sides_out() -> None:
    column = RewrittenColumn(start="[R]", end="[/R]")
    texts = ("[O] ask 0 [/O][R] tell 0 [/R]", "[R] never ends", "no marks", None, "[R]  [/R]", "[R]a[/R] [R]b[/R]")
    kept = PairedPrompts(given_rows(*texts), column).prompts()
    assert [prompt.prompt_id for prompt in kept] == ["q0", "q0/rewritten", "q5", "q5/rewritten"]
    assert [prompt.messages[-1].content for prompt in kept[1::2]] == ["tell 0", "b"]
    with pytest.raises(DataError, match="none of the 1 questions has a twin"):
        PairedPrompts(given_rows(None), column).prompts()


def test_a_step_takes_whole_pairs() -> None:
    source = PairedPrompts(given_rows("a", "b", "c"), RewrittenColumn())
    order = order_prompts(source, 4, seed=3)
    batch = order.batch(0, 4)
    assert [prompt.metadata["side"] for prompt in batch] == ["original", "rewritten"] * 2
    assert batch[0].metadata["pair_id"] == batch[1].metadata["pair_id"] != batch[2].metadata["pair_id"]
    with pytest.raises(DataError, match="must be a multiple of 2"):
        order_prompts(source, 3, seed=3)
    with pytest.raises(ValueError, match="size must be a multiple of together"):
        order.batch(0, 3)
    with pytest.raises(ValueError, match="prompts must be a multiple of together"):
        PromptOrder(source.prompts()[:3], 0, together=2)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 4), st.integers(0, 2**30))
@settings(max_examples=60)
def test_units_are_visited_as_single_prompts_are(count: int, size: int, together: int, seed: int) -> None:
    """The order of units is that of as many single prompts: every unit once an epoch, none twice in a batch."""
    size = min(size, count)
    single = [Prompt(str(unit), ()) for unit in range(count)]
    several = [Prompt(f"{unit}.{part}", ()) for unit in range(count) for part in range(together)]
    for step in range(6):
        units = [prompt.prompt_id for prompt in PromptOrder(single, seed).batch(step, size)]
        found = [prompt.prompt_id for prompt in PromptOrder(several, seed, together).batch(step, size * together)]
        assert found == [f"{unit}.{part}" for unit in units for part in range(together)]
