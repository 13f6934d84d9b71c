"""How sure was the policy of its answer?"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from thinkrl.grading.text import last_box_span, shorten
from thinkrl.rewards.term import RewardContext, RewardTerm, Scores
from thinkrl.rollouts.signals import LOGPROBS, Signal
from thinkrl.rollouts.spans import Span, read_response, token_range
from thinkrl.rollouts.store import Rollouts


@dataclass(frozen=True)
class AnswerConfidence(RewardTerm):
    r"""c(y) = (1/|a|) sum_{j in a} p_j, the mean probability of the tokens of the answer, given all before them.

    CRew (arXiv 2510.13501) with `last_box`: a is what stands inside the last `\boxed{...}`, without the braces, every
    token that writes a character of it. The probabilities are those of the distribution that each token was drawn from,
    so they are the model's own where it samples at temperature 1 from all tokens. The baseline with the perplexity of
    the whole response is `whole` with `geometric_mean`.
    """

    span: Literal["last_box", "answer_tag", "after_thinking", "whole"] = "last_box"
    """a: what stands in the last box, in the last closed answer tag, after `</think>`, or the whole response with its
    stop token."""
    average: Literal["mean", "geometric_mean", "product", "minimum", "mean_logprob"] = "mean"
    """What is made of the probabilities; geometric_mean is 1 / perplexity, and mean_logprob its logarithm."""
    missing: float | None = None
    """Value of a response without an answer; null has no number."""
    prefix: str = ""
    """What the prompt already wrote of the response, such as `<think>`."""

    def signals(self) -> tuple[Signal, ...]:
        """Log-probabilities, which the sampler supplies."""
        return (LOGPROBS,)

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        """A value per response, in (0, 1] but for mean_logprob; NaN where a log-probability is not known."""
        values = np.full(len(rollouts), np.nan if self.missing is None else self.missing)
        notes = ["no answer"] * len(rollouts)
        sampled = rollouts.origins.with_values(rollouts.sampled)
        for row, text in enumerate(rollouts.texts):
            first, stop = self._tokens(text, rollouts.char_ends[row])
            drawn = rollouts.logprobs[row][first:stop][sampled[row][first:stop]].astype(np.float64)
            if len(drawn):
                values[row] = self._averaged(drawn)
                notes[row] = f"{len(drawn)} token{'s' * (len(drawn) > 1)} of {self._shown(text)}"
        return Scores(values, notes=tuple(notes))

    def _tokens(self, text: str, char_ends: NDArray[np.int32]) -> Span:
        """The tokens of the answer; an empty range where there is none."""
        if self.span == "whole":
            return 0, len(char_ends)
        place = self._place(text)
        return (0, 0) if place is None else token_range(char_ends, *place)

    def _place(self, text: str) -> Span | None:
        """The characters of the answer."""
        if self.span == "last_box":
            return last_box_span(text)
        if self.span == "answer_tag":
            return read_response(text, self.prefix).answer
        end = text.find("</think>")
        return None if end < 0 else (end + len("</think>"), len(text))

    def _shown(self, text: str) -> str:
        place = self._place(text) if self.span != "whole" else None
        return "the response" if place is None else shorten(text[slice(*place)])

    def _averaged(self, logprobs: NDArray[np.float64]) -> float:
        if self.average == "mean":
            return float(np.mean(np.exp(logprobs)))
        if self.average == "geometric_mean":
            return float(np.exp(np.mean(logprobs)))
        if self.average == "product":
            return float(np.exp(np.sum(logprobs)))
        return float(np.exp(np.min(logprobs)) if self.average == "minimum" else np.mean(logprobs))
