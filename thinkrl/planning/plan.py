"""The plan of a recipe: every stage's memory and time on given hardware, and what to change where it does not fit."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from thinkrl.models.shapes import ModelShape, shape_of
from thinkrl.planning.hardware import Hardware
from thinkrl.planning.lengths import TokenCounter
from thinkrl.planning.memory import Setting, StageMemory, stage_memory
from thinkrl.planning.settings import (
    BFLOAT16,
    FLOAT32,
    AdapterSettings,
    LearnerSettings,
    SamplerSettings,
    read_learner,
    read_sampler,
)
from thinkrl.planning.timing import StageTime, stage_time
from thinkrl.planning.work import StageWork, work_of
from thinkrl.stages.experiment import Experiment

MARGIN = 0.1
"""Share of a device's memory that a plan leaves free: sizes are estimates."""


@dataclass(frozen=True)
class StagePlan:
    """One stage: its sizes, memory and time; whether it fits; changes that would make it fit, when it does not."""

    name: str
    work: StageWork
    memory: StageMemory
    time: StageTime
    fits: bool
    changes: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """A recipe on hardware. skipped: stages of kinds that cannot be sized."""

    recipe: str
    model: str
    shape: ModelShape
    dtype: str
    hardware: Hardware
    margin: float
    stages: tuple[StagePlan, ...]
    skipped: tuple[str, ...]

    @property
    def largest(self) -> StagePlan:
        """The stage with the highest peak."""
        return max(self.stages, key=lambda stage: stage.memory.peak)

    @property
    def fits(self) -> bool:
        """Whether every stage fits."""
        return all(stage.fits for stage in self.stages)

    @property
    def seconds(self) -> float:
        """Time of all stages, loading left out."""
        return sum(stage.time.stage for stage in self.stages)

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON values; bytes and seconds."""
        return {
            "recipe": self.recipe,
            "model": {"name": self.model, "dtype": self.dtype, **asdict(self.shape)},
            "parameters": self.shape.parameters,
            "hardware": asdict(self.hardware),
            "margin": self.margin,
            "peak_bytes": self.largest.memory.peak,
            "peak_stage": self.largest.name,
            "fits": self.fits,
            "seconds": self.seconds,
            "stages": {stage.name: _stage_json(stage) for stage in self.stages},
            "skipped": list(self.skipped),
        }


def make_plan(experiment: Experiment, hardware: Hardware, response_tokens: float | None = None) -> Plan:
    """Plans `experiment` on `hardware`; nothing is loaded but a tokenizer and prompts.

    Raises ConfigError for a model whose sizes cannot be found.
    """
    model: Any = experiment.model
    shape, counter = shape_of(model), TokenCounter(model)
    size = FLOAT32 if model.dtype == "float32" else BFLOAT16
    works: dict[str, StageWork] = {}
    plans, skipped = [], []
    for name, stage in experiment.stages.items():
        work = work_of(stage, counter, works)
        if work is None:
            skipped.append(f"{name} ({type(stage).__name__})")
            continue
        works[name] = work
        setting = Setting(
            shape=shape,
            compute_bytes=size,
            work=work,
            learner=None if work.learner is None else read_learner(work.learner),
            sampler=None if work.sampler is None else read_sampler(work.sampler, shape),
            hardware=hardware,
        )
        plans.append(_plan_stage(name, setting, response_tokens))
    source = str(getattr(model, "source", type(model).__name__))
    return Plan(experiment.name, source, shape, model.dtype, hardware, MARGIN, tuple(plans), tuple(skipped))


def fits(setting: Setting) -> bool:
    """Whether the peak leaves the margin; on a processor those of all processes together."""
    together = 1 if setting.hardware.gpu else setting.processes
    return together * stage_memory(setting).peak <= (1 - MARGIN) * setting.hardware.memory


def _plan_stage(name: str, setting: Setting, response_tokens: float | None) -> StagePlan:
    enough = fits(setting)
    return StagePlan(
        name=name,
        work=setting.work,
        memory=stage_memory(setting),
        time=stage_time(setting, response_tokens),
        fits=enough,
        changes=() if enough else what_would_fit(setting),
        notes=tuple(_notes(setting)),
    )


def _notes(setting: Setting) -> list[str]:
    """What the reader must know of how the hardware is used."""
    notes = []
    processes = setting.processes
    if processes < setting.hardware.count:
        every = f"learner.processes={setting.hardware.count}"
        notes.append(f"uses {processes} of {setting.hardware.count} devices; {every} uses all")
    if processes > setting.hardware.count and setting.hardware.gpu:
        notes.append(f"needs {processes} devices, there are {setting.hardware.count}")
    if processes > 1 and not setting.hardware.gpu:
        notes.append(f"memory is that of one of {processes} processes on this machine")
    if setting.compute_bytes == BFLOAT16 and not setting.hardware.bfloat16:
        notes.append("this GPU has no bfloat16 in hardware: set model.dtype=float32")
    return notes


def what_would_fit(setting: Setting) -> tuple[str, ...]:
    """Configuration changes that make the stage fit, the fewest found; empty when none of those known does.

    Changes are tried in order of what they cost, one added to the others until the stage fits; then those that
    turn out not to be needed are dropped, the dearest first.
    """
    taken: list[tuple[str, Change]] = []
    for change in _changes(setting):
        taken.append(change)
        if fits(_changed(setting, taken)):
            break
    else:
        return ()
    for change in reversed(taken[:-1]):
        fewer = [other for other in taken if other is not change]
        if fits(_changed(setting, fewer)):
            taken = fewer
    return tuple(text for text, _ in taken)


Change = Callable[[Setting], Setting]


def _changed(setting: Setting, changes: list[tuple[str, Change]]) -> Setting:
    for _, change in changes:
        setting = change(setting)
    return setting


def _changes(setting: Setting) -> list[tuple[str, Change]]:
    """Changes by key, cheapest first."""
    found: list[tuple[str, Change]] = []
    learner, sampler, count = setting.learner, setting.sampler, setting.hardware.count
    if setting.compute_bytes == FLOAT32 and setting.hardware.bfloat16:
        found.append(("model.dtype=bfloat16", lambda s: replace(s, compute_bytes=BFLOAT16)))
    if learner is not None:
        for tokens in (8192, 4096, 2048, 1024):
            if learner.logits_chunk_tokens > tokens:
                found.append((f"learner.logits_chunk_tokens={tokens}", _learner(logits_chunk_tokens=tokens)))
            if learner.micro_batch_tokens > tokens:
                found.append((f"learner.micro_batch_tokens={tokens}", _learner(micro_batch_tokens=tokens)))
    if sampler is not None and sampler.engine == "vllm" and not sampler.sleep and setting.hardware.gpu:
        found.append(("sampler.sleep=true", _sampler(sleep=True)))
    if sampler is not None and sampler.engine in ("vllm", "server") and setting.hardware.gpu:
        least = 1.2 * setting.shape.parameters * setting.compute_bytes / setting.hardware.memory
        for share in (0.6, 0.4, 0.3, 0.2, 0.1):
            if least < share < sampler.memory_fraction:
                found.append((f"sampler.memory_fraction={share}", _sampler(memory_fraction=share)))
    if sampler is not None and sampler.engine == "torch":
        for rows in (64, 32, 16, 8):
            if sampler.batch_size > rows:
                found.append((f"sampler.batch_size={rows}", _sampler(batch_size=rows)))
    if learner is not None and learner.optimizer == "adamw" and not learner.zero_stage and setting.hardware.gpu:
        found.append(("learner.optimizer=adamw_8bit", _learner(optimizer="adamw_8bit")))
    if learner is not None and not learner.gradient_checkpointing:
        found.append(("learner.gradient_checkpointing=true", _learner(gradient_checkpointing=True)))
    if learner is not None and count > 1 and learner.zero_stage < 3:
        for stage in range(learner.zero_stage + 1, 4):
            text = f"learner=deepspeed learner.processes={count} learner.zero_stage={stage}"
            found.append((text, _learner(zero_stage=stage, processes=count)))
    if learner is not None and learner.adapter is None:
        found.append(("learner/adapter=lora", _learner(adapter=AdapterSettings(16), zero_stage=0)))
    return found


def _learner(**settings: Any) -> Change:
    def change(setting: Setting) -> Setting:
        learner: LearnerSettings | None = setting.learner
        return setting if learner is None else replace(setting, learner=replace(learner, **settings))

    return change


def _sampler(**settings: Any) -> Change:
    def change(setting: Setting) -> Setting:
        sampler: SamplerSettings | None = setting.sampler
        return setting if sampler is None else replace(setting, sampler=replace(sampler, **settings))

    return change


def _stage_json(stage: StagePlan) -> Mapping[str, Any]:
    work = asdict(replace(stage.work, learner=None, sampler=None))
    memory = {
        "peak_bytes": stage.memory.peak,
        "peak_phase": stage.memory.phase,
        "host_bytes": stage.memory.host,
        "parts": [asdict(part) for part in stage.memory.parts],
    }
    time = asdict(stage.time) | {"seconds_step": stage.time.step, "seconds_stage": stage.time.stage}
    return {
        "work": {name: value for name, value in work.items() if name not in ("learner", "sampler")},
        "memory": memory,
        "time": time,
        "fits": stage.fits,
        "changes": list(stage.changes),
        "notes": list(stage.notes),
    }
