import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkrl.data.order import PromptOrder
from thinkrl.rollouts.prompt import Message, Prompt


def prompts(count: int) -> list[Prompt]:
    return [Prompt(f"p{index}", (Message("user", str(index)),)) for index in range(count)]


def ids(order: PromptOrder, step: int, size: int) -> list[str]:
    return [prompt.prompt_id for prompt in order.batch(step, size)]


SIZES = st.integers(1, 40).flatmap(lambda count: st.tuples(st.just(count), st.integers(1, count)))


@given(SIZES, st.integers(0, 2**40))
@settings(max_examples=60)
def test_every_prompt_once_per_epoch(shape: tuple[int, int], seed: int) -> None:
    count, size = shape
    order = PromptOrder(prompts(count), seed)
    epochs = 5
    steps = -(-epochs * count // size)
    visited = [name for step in range(steps) for name in ids(order, step, size)]
    for epoch in range(epochs):
        assert sorted(visited[epoch * count : (epoch + 1) * count]) == sorted(f"p{i}" for i in range(count))


@given(SIZES, st.integers(0, 2**40), st.integers(0, 200))
@settings(max_examples=60)
def test_no_prompt_twice_in_a_batch(shape: tuple[int, int], seed: int, step: int) -> None:
    count, size = shape
    batch = ids(PromptOrder(prompts(count), seed), step, size)
    assert len(batch) == size == len(set(batch))


@given(SIZES, st.lists(st.integers(0, 50), min_size=1, max_size=5))
@settings(max_examples=40)
def test_batch_is_a_function_of_the_step_alone(shape: tuple[int, int], visited: list[int]) -> None:
    count, size = shape
    walked = PromptOrder(prompts(count), 5)
    for step in visited:
        walked.batch(step, size)
    fresh = PromptOrder(prompts(count), 5)
    assert ids(walked, visited[0], size) == ids(fresh, visited[0], size)


def test_epochs_and_seeds_have_their_own_order() -> None:
    order, other = PromptOrder(prompts(30), 1), PromptOrder(prompts(30), 2)
    assert ids(order, 0, 30) != ids(order, 1, 30)
    assert ids(order, 0, 30) != ids(other, 0, 30)


def test_order_is_uniform() -> None:
    first = [ids(PromptOrder(prompts(4), 9), epoch, 4)[0] for epoch in range(800)]
    # 800 draws of 4: 200 each, standard deviation 12.2; 60 is nearly 5 deviations.
    assert all(abs(first.count(f"p{index}") - 200) < 60 for index in range(4))


def test_a_late_step_costs_no_more_than_an_early_one() -> None:
    assert len(ids(PromptOrder(prompts(64), 0), 10**12, 7)) == 7
    assert len(ids(PromptOrder(prompts(9), 0), 10**12 + 1, 8)) == 8


@pytest.mark.parametrize(
    ("step", "size", "message"),
    [(0, 0, "size must be at least 1"), (0, 4, "at most the 3 prompts"), (-1, 2, "step must be 0 or more, got -1")],
)
def test_impossible_batches_are_refused(step: int, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PromptOrder(prompts(3), 0).batch(step, size)


def test_empty_and_repeated_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        PromptOrder([], 0)
    with pytest.raises(ValueError, match="'p0' twice"):
        PromptOrder([*prompts(2), *prompts(1)], 0)
