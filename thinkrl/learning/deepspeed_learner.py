"""The learner on DeepSpeed: weights, gradients and moments divided among processes (ZeRO)."""

import copy
import importlib
import importlib.util
import logging
import os
import warnings
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from thinkrl.config.component import ConfigError
from thinkrl.learning.deepspeed_optimizer import EngineOptimizer
from thinkrl.learning.packing import Row
from thinkrl.learning.scorer import Scored, Scorer, ScoreRows
from thinkrl.learning.torch_learner import OpenTorchLearner, TorchLearner
from thinkrl.models.policy import Policy
from thinkrl.parallel.ranks import ranks
from thinkrl.sampling.sampler import SamplingSpec

WHOLE_BELOW = 10_000
"""Under stage 3, parameters with fewer elements (norms, biases) stay whole on every process once gathered."""
_BUCKET = 50_000_000
"""Elements that are summed over the processes at a time."""


@dataclass(frozen=True)
class DeepSpeedLearner(TorchLearner):
    """TorchLearner's step with the state of n processes divided by n: ZeRO (arXiv 1910.02054).

    Gradients, clipping and AdamW are those of `TorchLearner`, up to the order of sums; checkpoints are the same
    files, so a run may go on with another number of processes, another stage, or `TorchLearner`.
    """

    zero_stage: Literal[1, 2, 3] = 2
    """What is divided: 1 float32 weights and moments, 2 gradients too, 3 the weights of the forward pass too."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """What is kept in main memory in place of the GPU's: float32 weights and moments, or (stage 3) all weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optimizer != "adamw":
            raise ValueError(f"optimizer must be adamw with DeepSpeed, got {self.optimizer}")
        if self.adapter is not None:
            raise ValueError("adapter must be null with DeepSpeed; learner=torch trains adapters on several processes")
        if self.offload == "all" and self.zero_stage != 3:
            raise ValueError(f"zero_stage must be 3 to offload all weights, got {self.zero_stage}")

    def check(self) -> None:
        """Raises ConfigError when DeepSpeed is not installed."""
        super().check()
        if importlib.util.find_spec("deepspeed") is None:
            raise ConfigError(
                "learner=deepspeed needs DeepSpeed, which is not installed: pip install deepspeed;"
                " learner=torch needs nothing, and takes learner.processes too"
            )

    def open(self, policy: Policy, total_steps: int, with_reference: bool) -> OpenTorchLearner:
        """Takes `policy` for training.

        Under stage 3 the weights that are divided are a copy: the policy's own module stays whole, for samplers that
        read it, and is brought up to date by `Policy.refresh_module`. The reference model is divided as well.
        """
        self.check()
        if getattr(policy.module.config, "vision_config", None) is not None:
            # A process whose rows show no image would not pass the vision tower, for which the others wait.
            raise ConfigError(f"learner=deepspeed reads no images, and {policy.name} does: take learner=torch")
        deepspeed = import_deepspeed(policy.device)
        divided = self.zero_stage == 3
        module = copy.deepcopy(policy.module) if divided else policy.module
        self.prepare(module)
        reference: ScoreRows | None = None
        engines = []
        if with_reference:
            reference = frozen = self.scorer(copy.deepcopy(policy.module).requires_grad_(False).train(False))
            if divided:
                engines.append(self._frozen_engine(deepspeed, frozen))
                reference = EngineScorer.of(frozen, engines[0])
        masters, policy.masters = policy.masters, None
        if masters is None:
            raise ValueError(f"{policy.name} must be loaded for training to be learned on, got no master weights")
        plain = self.scorer(module)
        with _float32_buffers(module):
            engine, *_ = deepspeed.initialize(
                model=_Pass(plain), optimizer=self._adamw(plain), config=self._settings(plain, training=True)
            )
        optimizer = EngineOptimizer(engine, module, policy, deepspeed)
        optimizer.take(masters)
        learner = OpenTorchLearner(self, policy, total_steps, EngineScorer.of(plain, engine), reference, optimizer)
        # DeepSpeed keeps hold of every engine until it is told; the next stage's would stand beside this one.
        weakref.finalize(learner, _destroy, [*engines, engine]).atexit = False
        return learner

    def _frozen_engine(self, deepspeed: Any, frozen: Scorer) -> Any:
        with _float32_buffers(frozen.module):
            engine, *_ = deepspeed.initialize(model=_Pass(frozen), config=self._settings(frozen, training=False))
        return engine

    def _adamw(self, plain: Scorer) -> torch.optim.AdamW:
        """Matrices decay, norms and biases do not. The rate is set at each step."""
        parameters = [parameter for parameter in plain.module.parameters() if parameter.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [parameter for parameter in parameters if parameter.ndim >= 2]},
            {"params": [parameter for parameter in parameters if parameter.ndim < 2], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        return torch.optim.AdamW(
            groups, lr=0.0, betas=self.betas, eps=self.epsilon, weight_decay=self.weight_decay, fused=True
        )

    def _settings(self, plain: Scorer, *, training: bool) -> dict[str, Any]:
        """DeepSpeed's configuration."""
        sizes = [parameter.numel() for parameter in plain.module.parameters()]
        zero: dict[str, Any] = {
            "stage": self.zero_stage,
            "overlap_comm": False,
            "reduce_bucket_size": max(*sizes, min(_BUCKET, sum(sizes))),
            "stage3_param_persistence_threshold": WHOLE_BELOW,
        }
        if self.offload != "none" and training:
            zero["offload_optimizer"] = {"device": "cpu"}
        if self.offload == "all":
            zero["offload_param"] = {"device": "cpu"}
        return {
            "train_micro_batch_size_per_gpu": 1,
            # A step is whatever was passed before it: batches differ in their number of passes.
            "managed_gradient_accumulation": False,
            "zero_optimization": zero,
            "zero_force_ds_cpu_optimizer": False,  # its own AdamW for processors is compiled when first used
            "bf16": {"enabled": plain.module.dtype == torch.bfloat16, "check_grad_overflow": True},
            "data_types": {"grad_accum_dtype": "fp32"},
            "communication_data_type": "fp32",
            "gradient_clipping": self.max_gradient_norm or 0.0,
            "steps_per_print": None,
        }


def _destroy(engines: Sequence[Any]) -> None:
    """Lets go of engines, and of what holds their modules: a stack and a cache of stage 3 that only ever grow."""
    for engine in engines:
        engine.destroy()
    zero = "deepspeed.runtime.zero"
    importlib.import_module(f"{zero}.parameter_offload").FWD_MODULE_STACK.clear()
    coordinator = importlib.import_module(f"{zero}.partitioned_param_coordinator").PartitionedParameterCoordinator
    for method in vars(coordinator).values():
        for cell in getattr(method, "__closure__", None) or ():
            if hasattr(cell.cell_contents, "cache_clear"):
                cell.cell_contents.cache_clear()


class _Pass(torch.nn.Module):
    """The forward pass as a module, for DeepSpeed to watch: it gathers what a part of it reads, and lets go after."""

    def __init__(self, plain: Scorer) -> None:
        super().__init__()
        self.module = plain.module
        self._plain = plain
        self.rows: Sequence[Row] = ()
        self.spec = SamplingSpec()
        self.with_entropy = False

    def forward(self) -> Tensor:
        """Log-probabilities [1, m], and below them entropies when asked for.

        One tensor, for DeepSpeed counts on a backward pass that takes the same way each time and on every process,
        and it watches outputs one by one.
        """
        scored = self._plain(self.rows, self.spec, with_entropy=self.with_entropy)
        parts = [scored.logprobs] if scored.entropies is None else [scored.logprobs, scored.entropies]
        return torch.stack(parts)


@dataclass(frozen=True, eq=False)
class EngineScorer(Scorer):
    """A scorer whose pass goes through a DeepSpeed engine."""

    engine: Any = None

    @classmethod
    def of(cls, plain: Scorer, engine: Any) -> "EngineScorer":
        """The same pass as `plain`, through `engine`."""
        return cls(**{field.name: getattr(plain, field.name) for field in fields(plain)}, engine=engine)

    def __call__(self, rows: Sequence[Row], spec: SamplingSpec, *, with_entropy: bool = False) -> Scored:
        """One forward pass over `rows`; all processes pass at the same time."""
        watched = cast(_Pass, self.engine.module)
        watched.rows, watched.spec, watched.with_entropy = rows, spec, with_entropy
        logprobs, *entropies = self.engine().unbind()
        columns = np.concatenate([row.columns for row in rows])
        return Scored(logprobs, entropies[0] if entropies else None, columns)


def import_deepspeed(device: torch.device) -> Any:
    """DeepSpeed, without the operations that it would compile, and with a process group."""
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ["LOCAL_RANK"] = str(
        ranks().local_rank if device.type == "cpu" else device.index or 0
    )  # its device's number
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    deepspeed = importlib.import_module("deepspeed")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # It calls what torch has renamed, several times a pass.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    # Shared memory between processes of one machine would be compiled at the first start; gloo needs no compiler.
    importlib.import_module("deepspeed.ops").__compatible_ops__["deepspeed_shm_comm"] = False
    if not dist.is_initialized():
        backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
    return deepspeed


@contextmanager
def _float32_buffers(module: torch.nn.Module) -> Iterator[None]:
    """Keeps rotary frequencies as they are where DeepSpeed turns a module to bfloat16."""
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    yield
    for name, buffer in module.named_buffers():
        buffer.data = before[name].to(buffer.device)
