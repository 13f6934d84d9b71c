"""Asking a model with a memory: what was answered before is not asked again, and everything is written down."""

from collections.abc import Sequence
from pathlib import Path

from thinkrl.judges.answers import AnswerCache, JsonLines, answer_key
from thinkrl.judges.backend import Backend, OpenBackend, Surroundings
from thinkrl.judges.judgement import Call, Reply, transcript_row
from thinkrl.sampling.sampler import SamplingSpec


class Asking:
    """An open model with its answers and its transcript, which lie in the stage's folder."""

    def __init__(
        self,
        backend: Backend,
        sampling: SamplingSpec,
        surroundings: Surroundings,
        name: str,
        cache: bool = True,
        cache_file: str = "",
        transcript: bool = True,
    ) -> None:
        """name: begins the names of both files. cache_file: a file of answers elsewhere, for other runs too."""
        folder = surroundings.folder
        path = Path(cache_file) if cache_file else folder / f"{name}_answers.jsonl" if folder is not None else None
        self._sampling = sampling
        self._backend: OpenBackend = backend.open(surroundings)
        self._identity = self._backend.identity
        self._cache = AnswerCache(path) if cache else None
        self._transcript = JsonLines(folder / f"{name}_transcript.jsonl") if transcript and folder is not None else None
        for file in (self._cache, self._transcript):
            if file is not None:
                surroundings.closing.callback(file.close)

    def ask(self, calls: Sequence[Call]) -> list[Reply]:
        """Replies in order, from the cache where they are known; equal calls are asked once.

        Raises UserError for what would fail every call.
        """
        keys = [answer_key(self._identity, call, self._sampling) for call in calls]
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
            fresh = self._backend.ask(list(open_calls.values()), self._sampling, arrived)
            found |= dict(zip(waiting, fresh, strict=True))
        replies = [found[key] for key in keys]
        if self._transcript is not None:
            for key, call, reply in zip(keys, calls, replies, strict=True):
                self._transcript.append({"key": key, **transcript_row(call, reply)})
        return replies
