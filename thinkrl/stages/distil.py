"""Distillation: a teacher answers prompts, a second one what the first got wrong; right answers are handed on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from thinkrl.config.component import PromptCount
from thinkrl.data.source import PromptSource
from thinkrl.data.templates import PromptTemplate
from thinkrl.data.traces import Trace
from thinkrl.grading.extraction import AnswerExtractor
from thinkrl.grading.grader import Grader
from thinkrl.grading.verdict import Verdict
from thinkrl.judges.asking import Asking
from thinkrl.judges.backend import Backend, Surroundings
from thinkrl.judges.judgement import Call, Reply
from thinkrl.judges.scorers import call_key
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.sampling.sampler import SamplingSpec
from thinkrl.stages.artifacts import Kind
from thinkrl.stages.context import StageContext
from thinkrl.stages.stage import Stage
from thinkrl.tracking.recorder import Stopwatch

HINT_PLACES = ("reference",)
"""Places that the hint may have."""


@dataclass(frozen=True, kw_only=True)
class Distil(Stage):
    """Asks `teacher` once a prompt and keeps right answers; wrong ones go to `second` with the right answer as a hint.

    So RM-R1 (arXiv 2505.02387) has judgements written. What neither gets right, or answers at all, is left out. Answers
    are kept as they arrive, and a stage that goes on asks for the rest alone.
    """

    makes: ClassVar[tuple[Kind, ...]] = ("traces",)

    prompts: PromptSource
    """What is asked, with references."""
    teacher: Backend
    """Answers first."""
    grader: Grader
    """What counts as right."""
    extractor: AnswerExtractor = field(default_factory=AnswerExtractor)
    """Where the answer stands in a teacher's text."""
    second: Backend | None = None
    """Answers what the first got wrong; null leaves that out."""
    hint: PromptTemplate = field(
        default_factory=lambda: PromptTemplate("The right answer is {reference}. Answer anew.")
    )
    """The turn that the second teacher gets behind the wrong answer: {reference}."""
    sampling: SamplingSpec = field(default_factory=lambda: SamplingSpec(max_new_tokens=8192))
    """How teachers draw their answers."""
    prompt_count: PromptCount = 1_000_000
    """At most this many prompts, from the start."""

    def check(self) -> None:
        """Reads the prompts, and looks for what the teachers need."""
        self.hint.check(HINT_PLACES)
        for backend in (self.teacher, self.second):
            if backend is not None:
                backend.check(self.sampling)
        self._asked()

    def plan(self) -> str:
        """What will be done, with its sizes."""
        return f"distil answers to {len(self._asked())} prompts from {1 + (self.second is not None)} teachers"

    def work(self) -> float:
        """Tokens that teachers write at most."""
        return float(len(self._asked()) * self.sampling.max_new_tokens)

    def run(self, context: StageContext) -> Mapping[str, Path]:
        """Asks, and writes the traces."""
        path = context.folder / "traces.jsonl"
        if context.resume(total=1).step == 0:
            watch = Stopwatch()
            with watch("sample"):
                traces, counts = self._distil(context)
            if not traces:
                raise context.empty("no teacher's answer was right; the transcripts in its folder say what they wrote")
            context.write_traces(traces)
            context.finish_step(1, 1, counts, watch, every=1)
        return {"traces": path}

    def _distil(self, context: StageContext) -> tuple[list[Trace], dict[str, float]]:
        prompts = self._asked()
        first = self._ask(context, self.teacher, "teacher", {prompt.prompt_id: prompt.messages for prompt in prompts})
        right = {p.prompt_id: first[p.prompt_id].text for p in prompts if self._right(p, first[p.prompt_id])}
        counts = {"prompts": float(len(prompts)), "right_first": float(len(right))}
        wrong = [prompt for prompt in prompts if prompt.prompt_id not in right]
        if self.second is not None and wrong:
            anew = {prompt.prompt_id: self._with_hint(prompt, first[prompt.prompt_id]) for prompt in wrong}
            second = self._ask(context, self.second, "second_teacher", anew)
            right |= {p.prompt_id: second[p.prompt_id].text for p in wrong if self._right(p, second[p.prompt_id])}
        counts["right_second"] = len(right) - counts["right_first"]
        counts["without_answer"] = float(sum(bool(reply.fault) for reply in first.values()))
        return [Trace(prompt, right[prompt.prompt_id]) for prompt in prompts if prompt.prompt_id in right], counts

    def _ask(
        self, context: StageContext, backend: Backend, name: str, asked: Mapping[str, tuple[Message, ...]]
    ) -> dict[str, Reply]:
        def weights(model_from: str) -> Path | None:
            artifact = context.model_artifact(model_from)
            return artifact.path if artifact else None

        surroundings = Surroundings(context.model, weights, context.folder, context.seed, context.opened)
        asking = Asking(backend, self.sampling, surroundings, name)
        calls = [Call(key, turns, key=call_key(context.seed, key)) for key, turns in asked.items()]
        return dict(zip(asked, asking.ask(calls), strict=True))

    def _right(self, prompt: Prompt, reply: Reply) -> bool:
        if reply.fault or reply.cut:
            return False
        grade = self.grader.grade(self.extractor.extract(reply.text), prompt.reference)
        return grade.verdict is Verdict.CORRECT

    def _with_hint(self, prompt: Prompt, reply: Reply) -> tuple[Message, ...]:
        """The conversation with the wrong answer, if there is one, and the hint."""
        hint = self.hint.read().messages({"reference": str(prompt.reference)})
        said = (Message("assistant", reply.text),) if reply.text else ()
        if said:
            return (*prompt.messages, *said, *hint)
        last = prompt.messages[-1]
        return (*prompt.messages[:-1], Message(last.role, f"{last.content}\n\n{hint[-1].content}"))

    def _asked(self) -> Sequence[Prompt]:
        return list(self.prompts.prompts())[: self.prompt_count]
