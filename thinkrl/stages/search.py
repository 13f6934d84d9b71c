"""Search over the solutions of questions, many trees side by side: traces for the policy, values of steps for its
value model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from thinkrl.companions.reward_model import OpenRewardModel, RewardModel
from thinkrl.config.component import BatchPrompts, PromptCount
from thinkrl.data.judged import JudgedResponse
from thinkrl.data.order import PromptOrder, order_prompts
from thinkrl.data.source import PromptSource
from thinkrl.data.step_values import write_step_values
from thinkrl.data.traces import Trace
from thinkrl.grading.extraction import AnswerExtractor
from thinkrl.grading.grader import Grader
from thinkrl.grading.verdict import Verdict
from thinkrl.rollouts.prompt import Prompt
from thinkrl.sampling.sampler import Sampler, SamplerSource, SamplingSpec
from thinkrl.search.answers import AnswerRule, TraceSelection, finish
from thinkrl.search.files import FOLDER, read_tree_files, tree_file
from thinkrl.search.growth import Growth, Valuation
from thinkrl.search.measures import search_metrics
from thinkrl.search.method import SearchMethod
from thinkrl.search.steps import StepRule
from thinkrl.search.tree import Tree, outline, read_tree
from thinkrl.search.value_targets import ValueTargets
from thinkrl.stages.artifacts import Kind
from thinkrl.stages.context import StageContext
from thinkrl.stages.stage import Stage
from thinkrl.tracking.metrics import Value
from thinkrl.tracking.recorder import Stopwatch


@dataclass(frozen=True, kw_only=True)
class Search(Stage):
    """Grows a search tree for each question, grades its ends, and infers what each step was worth.

    The trees stand in the stage's folder as `search/*.json`. Right solutions are handed on as traces, and beginnings
    of solutions with their targets as step values, which a `TrainRewardModel` stage learns from. A question of whose
    ends none has an answer is counted, and has no verdict.
    """

    makes: ClassVar[tuple[Kind, ...]] = ("traces", "step_values")

    prompts: PromptSource
    """What is asked, with references."""
    search: SearchMethod
    """How trees grow, and when that ends."""
    sampler: SamplerSource
    """Sampling engine."""
    grader: Grader
    """What counts as right."""
    extractor: AnswerExtractor = field(default_factory=AnswerExtractor)
    """Where the answer stands in a solution."""
    value: RewardModel | None = None
    """The value model: what a `TrainRewardModel` stage made of step values; null for a search that needs none."""
    steps: StepRule = field(default_factory=StepRule)
    """What a step is."""
    sampling: SamplingSpec = field(default_factory=lambda: SamplingSpec(temperature=0.7, max_new_tokens=256))
    """How the tokens of a step are drawn, and at most how many."""
    targets: ValueTargets = field(default_factory=ValueTargets)
    """What a step is said to have been worth."""
    selection: TraceSelection = field(default_factory=TraceSelection)
    """Which right solutions are handed on."""
    answer: AnswerRule = "best_value"
    """Which answer is a tree's, for the metrics."""
    finish_tries: int = 5
    """How often the rest of a solution is sampled that ended by its value or for want of steps, until it has an
    answer."""
    prompt_count: PromptCount = 64
    """Prompts visited, each once; all of them when the source has fewer."""
    prompts_per_step: BatchPrompts = 16
    """Trees that grow side by side."""
    checkpoint_every: int = 1
    """Steps between checkpoints."""
    checkpoint_rounds: int = 10
    """Rounds of a search between checkpoints within a step."""

    def __post_init__(self) -> None:
        for name in ("prompt_count", "prompts_per_step", "checkpoint_every", "checkpoint_rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.finish_tries < 0:
            raise ValueError(f"finish_tries must be 0 or more, got {self.finish_tries}")
        if self.value is None:
            if self.search.guided:
                raise ValueError(f"value must be given for {type(self.search).__name__}, which values guide, got null")
            if self.answer != "vote":
                raise ValueError(f"answer must be 'vote' where there is no value model, got '{self.answer}'")
            if self.selection.minimum_value is not None:
                raise ValueError(
                    "selection.minimum_value must be null where there is no value model,"
                    f" got {self.selection.minimum_value}"
                )
        elif self.value.reads.part != "response":
            raise ValueError(f"value.reads.part must be 'response', got '{self.value.reads.part}'")

    def needs(self) -> tuple[tuple[str, Kind], ...]:
        """The stage that trained the value model."""
        return ((self.value.model_from, "reward_model"),) if self.value and self.value.model_from else ()

    def check(self) -> None:
        """Reads the prompts, and looks for the sampling engine and the value model."""
        self.sampler.check()
        order_prompts(self.prompts, self.prompts_per_step, seed=0)
        if self.value is not None:
            self.value.check()

    def plan(self) -> str:
        """What will be done, with its sizes."""
        budget = f" and {self.search.max_tokens} tokens" if self.search.max_tokens else ""
        return (
            f"search: {type(self.search).__name__} on {self.prompt_count} questions,"
            f" {self.prompts_per_step} side by side, at most {self.search.rounds} rounds{budget} each"
        )

    def work(self) -> float:
        """Tokens sampled at most."""
        longest = self.sampling.max_new_tokens if self.search.guided else self.steps.solution_tokens
        tokens = float(self.search.rounds * self.search.proposals() * longest)
        return self.prompt_count * min(tokens, float(self.search.max_tokens or tokens))

    def run(self, context: StageContext) -> Mapping[str, Path]:
        """Grows trees, grades them, and hands on what they show."""
        order = order_prompts(self.prompts, self.prompts_per_step, context.seed)
        count = min(self.prompt_count, len(order))
        total = -(-count // self.prompts_per_step)
        growth = self._open(context, total)
        state = context.resume(total)
        under_way: Any = state.values.get("trees", [])
        for step in range(state.step + 1, total + 1):
            watch = Stopwatch()
            with watch("sample"):
                trees = [read_tree(written) for written in under_way] or [
                    growth.plant(prompt) for prompt in self._batch(order, step, count)
                ]
                while growth.grow(trees, self.search):
                    self._keep(trees, step, context)
                self._finish(trees, growth)
            with watch("reward"):
                self._grade(trees, context)
                targets = [self.targets.infer(tree) for tree in trees]
            self._write(trees, step, context)
            row = search_metrics(trees, targets, [self.selection.choose(tree) for tree in trees], self.answer)
            context.finish_step(step, total, row, watch, every=self.checkpoint_every)
            under_way = []
        return self._hand_on(context)

    def _open(self, context: StageContext, total: int) -> Growth:
        policy = context.load_policy(self.model_from)
        sampler: Sampler = context.open_sampler(self.sampler, policy)
        value: Valuation | None = None
        if self.value is not None:
            opened = context.open_companions({"value": self.value}, policy, sampler, self.sampling, total)
            model = opened.opened["value"]
            assert isinstance(model, OpenRewardModel)
            value = _first_reads(model, context)
        return Growth(policy, sampler, self.sampling, self.steps, value, context.seed, context.name)

    def _batch(self, order: PromptOrder, step: int, count: int) -> Sequence[Prompt]:
        return order.batch(step - 1, self.prompts_per_step)[: count - (step - 1) * self.prompts_per_step]

    def _keep(self, trees: Sequence[Tree], step: int, context: StageContext) -> None:
        """A checkpoint in the middle of step `step`, where one is due: that of the step before, with the trees."""
        if max(tree.rounds for tree in trees) % self.checkpoint_rounds == 0:
            context.checkpoint(step - 1, trees=[tree.written(ids=True) for tree in trees])

    def _finish(self, trees: Sequence[Tree], growth: Growth) -> None:
        """Answers of all ends."""
        for tree in trees:
            self.search.close(tree)
        extract, tries = self.extractor.extract, self.finish_tries
        growth.carry_out(trees, [finish(tree, self.steps, extract, tries) for tree in trees])

    def _grade(self, trees: Sequence[Tree], context: StageContext) -> None:
        """Verdicts of all ends that have an answer. The first process asks for them, and tells the others."""
        ends = [(tree, end) for tree in trees for end in tree.ends() if end.answer is not None]
        said = None
        if context.ranks.first:
            grades = self.grader.grade_all([end.answer for _, end in ends], [tree.prompt.reference for tree, _ in ends])
            said = [grade.verdict.value for grade in grades]
        for (_, end), verdict in zip(ends, context.ranks.share(said, "verdicts on ends"), strict=True):
            end.verdict = Verdict(verdict)

    def _write(self, trees: Sequence[Tree], step: int, context: StageContext) -> None:
        """One file a tree, in the order of visits, and some of them to the tracker."""
        for place, tree in enumerate(trees, start=(step - 1) * self.prompts_per_step):
            name, text = tree_file(tree, place, self.answer)
            context.write_text(context.folder / FOLDER / name, text)
        rows: list[list[Value]] = [[tree.prompt.messages[-1].content, outline(tree.root)] for tree in trees[:8]]
        context.recorder.samples(f"{context.name}/trees", ["question", "tree"], rows)

    def _hand_on(self, context: StageContext) -> Mapping[str, Path]:
        """Traces and step values of all trees, as they stand in their files; whoever learns from them refuses none."""
        path, traces = context.folder / "step_values.jsonl", []
        if context.ranks.first:
            trees = read_tree_files(context.folder)
            traces = [Trace(tree.prompt, end.solution) for tree in trees for end in self.selection.choose(tree)]
            values = [
                JudgedResponse(tree.prompt, node.beginning, node.target)
                for tree in trees
                for node in tree.root.walk()
                if node.target is not None
            ]
            if not traces and context.plumbing:
                context.recorder.message(f"{context.name}: nothing found; this scale goes on with any beginning")
                traces, values = _anything(trees)
            write_step_values(path, values)
        return {"traces": context.write_traces(traces), "step_values": path}


def _first_reads(model: OpenRewardModel, context: StageContext) -> Valuation:
    """The values that the first process reads, told to all: where others rounded otherwise, their trees would part."""

    def read(prompts: Sequence[Prompt], texts: Sequence[str]) -> NDArray[np.float64]:
        said = model.scores(prompts, texts) if context.ranks.first else None
        return np.asarray(context.ranks.share(said, "values of steps"), dtype=np.float64)

    return read


def _anything(trees: Sequence[Tree]) -> tuple[list[Trace], list[JudgedResponse]]:
    """The longest beginning of each tree, and a value for each beginning: to see that a recipe runs."""
    deepest = [max(tree.root.walk(), key=lambda node: node.depth) for tree in trees]
    traces = [Trace(tree.prompt, node.beginning) for tree, node in zip(trees, deepest, strict=True)]
    values = [JudgedResponse(tree.prompt, node.beginning, 0.5) for tree in trees for node in tree.root.walk()]
    return traces, values
