"""A judge: a prompt, a model that answers it, and a scorer that reads the answers."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from thinkrl.config.component import UserError
from thinkrl.data.templates import PromptTemplate
from thinkrl.judges.answers import AnswerCache, JsonLines, answer_key
from thinkrl.judges.backend import Backend, OpenBackend, Surroundings
from thinkrl.judges.judgement import Call, Case, Judgement, Reply, transcript_row
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
    """Whether every call and reply is written to `judge_transcript.jsonl` in the stage's folder."""

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
        self._config = config
        self._prompt = config.prompt.read()
        self._seed = surroundings.seed
        self._backend: OpenBackend = config.backend.open(surroundings)
        self._identity = self._backend.identity
        folder = surroundings.folder
        self._cache = AnswerCache(self._cache_path(folder, name)) if config.cache else None
        written = config.transcript and folder is not None
        self._transcript = JsonLines(folder / f"{name}_transcript.jsonl") if written and folder is not None else None
        for file in (self._cache, self._transcript):
            if file is not None:
                surroundings.closing.callback(file.close)

    def judge(self, cases: Sequence[Case]) -> list[Judgement]:
        """A judgement for each case, in order. Raises UserError for what would fail every call."""
        scorer = self._config.scorer
        asked = [scorer.calls(case, self._prompt, self._seed) for case in cases]
        replies = iter(self.ask([call for calls in asked for call in calls]))
        return [
            scorer.judgement(case, [next(replies) for _ in calls], self._seed)
            for case, calls in zip(cases, asked, strict=True)
        ]

    def ask(self, calls: Sequence[Call]) -> list[Reply]:
        """Replies in order, from the cache where they are known; equal calls are asked once."""
        sampling = self._config.sampling
        keys = [answer_key(self._identity, call, sampling) for call in calls]
        found: dict[str, Reply] = {}
        open_calls: dict[str, Call] = {}
        for key, call in zip(keys, calls, strict=True):
            known = self._cache.find(key) if self._cache is not None else None
            if known is not None:
                found[key] = known
            else:
                open_calls.setdefault(key, call)
        waiting = list(open_calls)

        def arrived(place: int, reply: Reply) -> None:
            if self._cache is not None:
                self._cache.keep(waiting[place], reply)

        if waiting:
            fresh = self._backend.ask(list(open_calls.values()), sampling, arrived)
            found |= dict(zip(waiting, fresh, strict=True))
        replies = [found[key] for key in keys]
        if self._transcript is not None:
            for key, call, reply in zip(keys, calls, replies, strict=True):
                self._transcript.append({"key": key, **transcript_row(call, reply)})
        return replies

    def _cache_path(self, folder: Path | None, name: str) -> Path | None:
        if self._config.cache_file:
            return Path(self._config.cache_file)
        return folder / f"{name}_answers.jsonl" if folder is not None else None
