"""The work of each stage, in sizes: what is sampled and what is learned from at every step."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import singledispatch

from thinkrl.config.component import UserError
from thinkrl.data.preferences import PreferenceSource
from thinkrl.data.traces import TraceSource
from thinkrl.planning.lengths import Lengths, TokenCounter, unknown_response
from thinkrl.stages.artifacts import FromStage
from thinkrl.stages.evaluate import Evaluate
from thinkrl.stages.grpo import GRPO
from thinkrl.stages.preference import PreferenceOptimisation
from thinkrl.stages.rejection_sampling import SamplingStage
from thinkrl.stages.sft import SFT
from thinkrl.stages.stage import Stage


@dataclass(frozen=True, kw_only=True)
class StageWork:
    """One stage in sizes.

    learner, sampler: the components, None where the stage has none. steps: steps of the stage. prompts, sequences:
    prompts of a step, and responses of a step in all. prompt, response: their lengths; longest_response: what memory
    must hold. updates: optimizer steps of a step. passes: times that a response is learned from. forwards: further
    passes over all tokens without gradient. reference, entropy: whether the objective needs them.
    checkpoint_every: steps between checkpoints, None where none is made.
    """

    kind: str
    learner: object = None
    sampler: object = None
    steps: int
    prompts: int
    sequences: int
    prompt: Lengths
    response: Lengths
    updates: int = 0
    passes: int = 0
    forwards: int = 0
    reference: bool = False
    entropy: bool = False
    checkpoint_every: int | None = None


@singledispatch
def work_of(stage: Stage, counter: TokenCounter, earlier: Mapping[str, StageWork]) -> StageWork | None:
    """The work of `stage`, of which `earlier` stages' work may tell more; None for a kind that is not known here."""
    return None


@work_of.register
def _(stage: GRPO, counter: TokenCounter, earlier: Mapping[str, StageWork]) -> StageWork:
    algorithm = stage.algorithm
    limit = stage.sampling.max_new_tokens
    old = algorithm.old_logprobs == "recompute"
    in_reward = algorithm.needs_reference and not algorithm.objective.needs_reference
    return StageWork(
        kind="policy optimisation",
        learner=stage.learner,
        sampler=stage.sampler,
        steps=stage.steps,
        prompts=stage.prompts_per_step,
        sequences=stage.prompts_per_step * stage.group_size,
        prompt=counter.prompts(stage.prompts.prompts),
        response=Lengths(limit, limit, "sampling.max_new_tokens"),
        updates=algorithm.updates_per_batch,
        passes=algorithm.passes,
        forwards=int(old) + int(in_reward) + algorithm.passes * int(algorithm.objective.needs_reference),
        reference=algorithm.needs_reference,
        entropy=algorithm.objective.needs_entropy,
        checkpoint_every=stage.checkpoint_every,
    )


@work_of.register
def _(stage: SFT, counter: TokenCounter, earlier: Mapping[str, StageWork]) -> StageWork:
    prompt, response, count = _traces(stage.traces, counter, earlier)
    steps = min(stage.epochs * -(-count // stage.batch_size), stage.max_steps)
    size = min(stage.batch_size, count)
    return StageWork(
        kind="supervised",
        learner=stage.learner,
        steps=steps,
        prompts=size,
        sequences=size,
        prompt=prompt,
        response=response,
        updates=1,
        passes=1,
        checkpoint_every=stage.checkpoint_every,
    )


@work_of.register
def _(stage: PreferenceOptimisation, counter: TokenCounter, earlier: Mapping[str, StageWork]) -> StageWork:
    prompt, response, count = _pairs(stage.pairs, counter, earlier)
    steps = min(stage.epochs * -(-count // stage.batch_size), stage.max_steps)
    size = min(stage.batch_size, count)
    return StageWork(
        kind="preference optimisation",
        learner=stage.learner,
        steps=steps,
        prompts=size,
        sequences=2 * size,
        prompt=prompt,
        response=response,
        updates=1,
        passes=1,
        # The reference's log-probabilities, read once for each pair, are left out.
        forwards=1,
        checkpoint_every=stage.checkpoint_every,
    )


@work_of.register
def _(stage: SamplingStage, counter: TokenCounter, earlier: Mapping[str, StageWork]) -> StageWork:
    limit = stage.sampling.max_new_tokens
    return StageWork(
        kind="sampling",
        sampler=stage.sampler,
        steps=-(-stage.prompt_count // stage.prompts_per_step),
        prompts=stage.prompts_per_step,
        sequences=stage.prompts_per_step * stage.samples,
        prompt=counter.prompts(stage.prompts.prompts),
        response=Lengths(limit, limit, "sampling.max_new_tokens"),
    )


@work_of.register
def _(stage: Evaluate, counter: TokenCounter, earlier: Mapping[str, StageWork]) -> StageWork:
    benchmark, limit = stage.benchmark, stage.benchmark.sampling.max_new_tokens
    prompt = counter.prompts(benchmark.selected)
    try:
        count = len(benchmark.selected())
    except UserError:
        count = benchmark.max_prompts if benchmark.max_prompts < 1_000_000 else 1000
    return StageWork(
        kind="evaluation",
        sampler=stage.sampler,
        steps=1,
        prompts=count,
        sequences=count * benchmark.samples,
        prompt=prompt,
        response=Lengths(limit, limit, "benchmark.sampling.max_new_tokens"),
    )


def _traces(
    source: TraceSource | FromStage, counter: TokenCounter, earlier: Mapping[str, StageWork]
) -> tuple[Lengths, Lengths, int]:
    """Lengths of prompts and responses, and how many traces, or pairs that a stage makes, there are."""
    if isinstance(source, FromStage):
        maker = earlier.get(source.stage)
        if maker is None:
            return unknown_response("made by an earlier stage"), unknown_response("made by an earlier stage"), 1000
        # Half of the prompts is a guess; what is verified is not known before.
        return maker.prompt, maker.response, max(1, maker.steps * maker.prompts // 2)
    try:
        traces = source.traces()
    except UserError as error:
        unknown = unknown_response(str(error).splitlines()[0][:120])
        return unknown, unknown, 1000
    prompt = counter.prompts(lambda: [trace.prompt for trace in traces])
    return prompt, counter.texts([trace.response for trace in traces]), len(traces)


def _pairs(
    source: PreferenceSource | FromStage, counter: TokenCounter, earlier: Mapping[str, StageWork]
) -> tuple[Lengths, Lengths, int]:
    """Lengths of prompts and responses, and how many pairs there are."""
    if isinstance(source, FromStage):
        return _traces(source, counter, earlier)
    try:
        pairs = source.preferences()
    except UserError as error:
        unknown = unknown_response(str(error).splitlines()[0][:120])
        return unknown, unknown, 1000
    prompt = counter.prompts(lambda: [pair.prompt for pair in pairs])
    return prompt, counter.texts([text for pair in pairs for text in (pair.chosen, pair.rejected)]), len(pairs)
