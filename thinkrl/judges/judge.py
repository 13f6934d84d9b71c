"""A judge: a prompt, a model that answers it, and a scorer that reads the answers."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from thinkrl.config.component import UserError
from thinkrl.data.templates import PromptTemplate
from thinkrl.judges.asking import Asking
from thinkrl.judges.backend import Backend, Surroundings
from thinkrl.judges.judgement import Case, Judgement
from thinkrl.judges.scorers import OPPONENT, Pairwise, Scorer
from thinkrl.sampling.sampler import SamplingSpec

GREEDY = SamplingSpec(temperature=0.0)


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Scores cases by asking a model; what cannot be scored is ungradable, with the reason.

    An answer is looked up before it is asked for. The file lies in the stage's folder, so that a run that goes on
    after a stop gets the answers that it had, from a model that would answer differently now as well.
    """

    prompt: PromptTemplate
    """What the model is asked."""
    backend: Backend
    """Where the model runs: in this process, or behind a URL."""
    scorer: Scorer
    """How replies become scores."""
    sampling: SamplingSpec = GREEDY
    """How the model draws its reply."""
    cache: bool = True
    """Whether answers are kept."""
    cache_file: str = ""
    """A file of answers that other runs read too; empty keeps them in the stage's folder."""
    transcript: bool = True
    """Whether every call and reply is written to a transcript in the stage's folder."""

    def check(self, fields: Collection[str]) -> None:
        """Raises a UserError when the prompt does not fit cases with `fields`, or the model cannot be had."""
        places = self.scorer.places(sorted(fields))
        if isinstance(self.scorer, Pairwise) and OPPONENT not in fields:
            raise UserError("a judge of pairs needs an opponent for each response: say what it compares them with")
        self.prompt.check(places, self.scorer.needed())
        if self.sampling.budget is not None:
            raise UserError("a judge's sampling.budget must be null: its reply is not cut short")
        self.backend.check(self.sampling)

    def open(self, surroundings: Surroundings, name: str = "judge") -> "OpenJudge":
        """Loads the model or connects to it. name: begins the names of the files in the stage's folder."""
        return OpenJudge(self, surroundings, name)


class OpenJudge:
    """A judge at work."""

    def __init__(self, config: Judge, surroundings: Surroundings, name: str) -> None:
        self._scorer = config.scorer
        self._prompt = config.prompt.read()
        self._seed = surroundings.seed
        self._asking = Asking(
            config.backend,
            config.sampling,
            surroundings,
            name,
            cache=config.cache,
            cache_file=config.cache_file,
            transcript=config.transcript,
        )

    def judge(self, cases: Sequence[Case]) -> list[Judgement]:
        """A judgement for each case, in order. Raises UserError for what would fail every call."""
        asked = [self._scorer.calls(case, self._prompt, self._seed) for case in cases]
        replies = iter(self._asking.ask([call for calls in asked for call in calls]))
        return [
            self._scorer.judgement(case, [next(replies) for _ in calls], self._seed)
            for case, calls in zip(cases, asked, strict=True)
        ]
