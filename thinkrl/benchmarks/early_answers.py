"""How good the answer is when thinking is cut: a probe of responses, for benchmarks and for whoever has rollouts."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from thinkrl.environments.forced_answers import ForcedAnswers, check_shares, share_of
from thinkrl.grading.extraction import AnswerExtractor
from thinkrl.grading.grader import Grader
from thinkrl.grading.verdict import Verdict
from thinkrl.rollouts.store import Rollouts
from thinkrl.sampling.sampler import Sampler, SamplingSpec

if TYPE_CHECKING:
    from thinkrl.models.policy import Policy

_MARKS = {Verdict.CORRECT: 1.0, Verdict.WRONG: 0.0}


@dataclass(frozen=True)
class EarlyAnswers:
    """Accuracy of the answers that are forced when the thinking of given responses is cut at `at`.

    With shares of the limit this is the anytime accuracy of arXiv 2505.13438: A(b), the accuracy at budget b.
    """

    forced: ForcedAnswers = field(default_factory=ForcedAnswers)
    """How thinking is cut and answered."""
    at: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    """Where: rising shares, of what `of` says, rounded up to tokens."""
    of: Literal["limit", "thinking"] = "limit"
    """Shares of the sampling's `max_new_tokens`, the same budgets for all, or of each thinking's own length."""

    def __post_init__(self) -> None:
        check_shares(self.at, "at")

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for each cut: its share."""
        return tuple(f"{share:g}" for share in self.at)

    def scores(
        self,
        policy: "Policy",
        sampler: Sampler,
        rollouts: Rollouts,
        spec: SamplingSpec,
        extractor: AnswerExtractor,
        grader: Grader,
        seed: int,
        stage: str,
    ) -> NDArray[np.float64]:
        """Mean score of the answers of each response at each cut, [n, cuts]: 1 right, 0 wrong, NaN without verdict."""
        budgets = [share_of(self.at, self._whole(rollouts, row, spec)) for row in range(len(rollouts))]
        answered = self.forced.answer(policy, sampler, rollouts, budgets, spec, seed, stage)
        answers = [extractor.extract(text) for text in answered.texts]
        references = [answered.prompt(row).reference for row in range(len(answered))]
        grades = grader.grade_all(answers, references)
        marks = np.asarray([_MARKS.get(grade.verdict, np.nan) for grade in grades], dtype=np.float64)
        marks = marks.reshape(len(rollouts), len(self.at), self.forced.answers)
        counts = np.sum(~np.isnan(marks), axis=2)
        means: NDArray[np.float64] = np.divide(
            np.nansum(marks, axis=2), counts, out=np.full(counts.shape, np.nan), where=counts > 0
        )
        return means

    def _whole(self, rollouts: Rollouts, row: int, spec: SamplingSpec) -> int:
        """The tokens of which the cuts are shares."""
        if self.of == "limit":
            return spec.max_new_tokens
        response = rollouts.response(row)
        return int(np.sum(response.origins[: self.forced.thinking(response)[0]]))
