"""How a reward model learns along: a right response of each batch is set above a wrong rewriting of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from thinkrl.algorithms.score_loss import ScoreLoss
from thinkrl.companions.companion import CompanionStart
from thinkrl.companions.rewriting import OpenRewriting, Original, Rewriting
from thinkrl.data.chat import ChatRenderer
from thinkrl.data.judged import JudgedText
from thinkrl.grading.extraction import AnswerExtractor
from thinkrl.grading.grader import Grader
from thinkrl.grading.verdict import Verdict
from thinkrl.learning.score_model import learn_scores
from thinkrl.learning.value_model import ValueLearner, ValueModel
from thinkrl.rollouts.store import Rollouts

_LOSS = ScoreLoss("bradley_terry")


@dataclass(frozen=True, kw_only=True)
class PairUpdate:
    """-log sigmoid(s_right - s_wrong), a mean over pairs, in one optimizer step a batch (Cooper, arXiv 2508.05613).

    A prompt gives one pair at most: its first response that the reward's verdict finds right, and a rewriting of it
    whose answer is another; none without a right response, or without such a rewriting after all tries. A rule that
    misses some right answers is good enough here, where it is believed only when it says right. Without a pair the
    weights stay.
    """

    rewriting: Rewriting
    """Makes wrong responses of right ones."""
    grader: Grader
    """Says that a rewriting's answer is another than the response's; what it cannot say so of is no pair."""
    extractor: AnswerExtractor = field(default_factory=AnswerExtractor)
    """Finds the answers of both."""
    tries: int = 3
    """Times that a rewriting is asked for."""
    learner: ValueLearner = field(default_factory=ValueLearner)
    """Optimizer and batching."""

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise ValueError(f"tries must be at least 1, got {self.tries}")

    def check(self) -> None:
        """Raises a UserError when what it needs is not there."""
        self.rewriting.check()
        self.learner.check()

    def open(self, start: CompanionStart, model: ValueModel, reads: JudgedText) -> "OpenPairUpdate":
        """reads: what `model` sees of a response, right or wrong."""
        return OpenPairUpdate(self, self.rewriting.open(start), model, reads)


class OpenPairUpdate:
    """Updates of one reward model."""

    def __init__(self, config: PairUpdate, rewriting: OpenRewriting, model: ValueModel, reads: JudgedText) -> None:
        self._config = config
        self._rewriting = rewriting
        self._model = model
        self._reads = reads
        self._renderer = ChatRenderer(model.model.tokenizer)

    def learn(self, rollouts: Rollouts, verdicts: Sequence[Verdict | None]) -> dict[str, float]:
        """One step; `pair_accuracy` is the share of pairs in order before it, and `without_pair` that of prompts."""
        pairs = [
            [self._reads.token_ids(one.prompt, text, self._renderer) for text in (one.response, wrong)]
            for one, wrong in self.pairs(rollouts, verdicts)
        ]
        texts = [text for pair in pairs if all(side is not None for side in pair) for text in pair if text is not None]
        report = learn_scores(self._model, texts, np.tile([1.0, 0.0], len(texts) // 2), _LOSS)
        groups = len(rollouts.groups)
        metrics = {"without_pair": 1.0 - len(texts) / (2 * groups), "learning_rate": report.learning_rate}
        if texts:
            metrics |= {
                "loss": report.loss,
                "gradient_norm": report.gradient_norm,
                "pair_accuracy": report.metrics["accuracy"],
            }
        return metrics

    def pairs(self, rollouts: Rollouts, verdicts: Sequence[Verdict | None]) -> list[tuple[Original, str]]:
        """A right response and a wrong one for each prompt that has both, in the order of the groups."""
        found: dict[str, str] = {}
        originals = self._originals(rollouts, verdicts)
        for attempt in range(1, self._config.tries + 1):
            waiting = [one for one in originals if one.original_id not in found]
            if not waiting:
                break
            for one, text in zip(waiting, self._rewriting.rewrite(waiting, attempt), strict=True):
                if text is not None and self._is_other(text, one.response):
                    found[one.original_id] = text
        return [(one, found[one.original_id]) for one in originals if one.original_id in found]

    def _originals(self, rollouts: Rollouts, verdicts: Sequence[Verdict | None]) -> list[Original]:
        """The first right response of each group that has one."""
        found = []
        for rows in rollouts.rows_by_group().values():
            first = next((int(row) for row in rows if verdicts[int(row)] is Verdict.CORRECT), None)
            if first is not None:
                found.append(Original(rollouts.response_ids[first], rollouts.prompt(first), rollouts.texts[first]))
        return found

    def _is_other(self, text: str, right: str) -> bool:
        answer, wanted = self._config.extractor.extract(text), self._config.extractor.extract(right)
        return wanted is not None and self._config.grader.grade(answer, wanted).verdict is Verdict.WRONG
