"""When thinking is cut, and what is inserted there."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from thinkrl.sampling.sampler import ThinkingBudget


class BudgetRule:
    """A `ThinkingBudget` in tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, budget: ThinkingBudget) -> None:
        self._tokenizer = tokenizer
        self._budget = budget
        self._insert = [int(token) for token in tokenizer.encode(budget.insert, add_special_tokens=False)]

    def insertion(self, token_ids: Sequence[int]) -> list[int]:
        """What comes after `token_ids`, all of which were drawn: nothing, unless the budget is spent just now
        and thinking has not ended."""
        if len(token_ids) != self._budget.tokens:
            return []
        text = self._tokenizer.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return [] if self._budget.end in text else self._insert
