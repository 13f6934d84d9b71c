"""The work of a GRPO step that both sides are given, and how the benchmark talks to the side that computes.

Only the standard library at module level: the other trainer's environment reads this file as well.
"""

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TextIO

_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
_MCL_CURRENT_FUTURE_ONFAULT = 1 | 2 | 4  # <sys/mman.h>


@dataclass(frozen=True)
class Case:
    """How much a step does: every prompt has `prompt_tokens` rendered tokens, every response `new_tokens`.

    terms, digits: ranges of reasoning-gym's chain_sum from which prompts of that length are picked.
    """

    name: str
    prompt_tokens: int
    group_size: int
    prompts: int = 4
    new_tokens: int = 64
    terms: tuple[int, int] = (2, 6)
    digits: tuple[int, int] = (1, 4)

    @property
    def samples(self) -> int:
        """Responses a step."""
        return self.prompts * self.group_size

    @property
    def sequence_tokens(self) -> int:
        """Tokens of a prompt with its response."""
        return self.prompt_tokens + self.new_tokens


_LONG = {"prompt_tokens": 512, "terms": (60, 130)}
CASES = {
    case.name: case
    for case in (
        Case("short", prompt_tokens=64, group_size=8),
        Case("long", group_size=8, **_LONG),  # type: ignore[arg-type]
        Case("group16", prompt_tokens=64, group_size=16),
        Case("long16", group_size=16, **_LONG),  # type: ignore[arg-type]
    )
}
LEARNING_RATE, BETAS, EPSILON, CLIP, LARGEST_NORM, SEED = 1e-6, (0.9, 0.999), 1e-8, 0.2, 1.0, 0


def questions(case: Case, count: int, model: Path) -> list[str]:
    """`count` different sums, each of exactly `case.prompt_tokens` tokens once the model's chat template is on it."""
    import reasoning_gym
    from transformers import AutoTokenizer

    from thinkrl.data.chat import ChatRenderer
    from thinkrl.rollouts.prompt import Message

    renderer = ChatRenderer(AutoTokenizer.from_pretrained(model))
    (few, many), (narrow, wide) = case.terms, case.digits
    task: Any = reasoning_gym.create_dataset(
        "chain_sum", min_terms=few, max_terms=many, min_digits=narrow, max_digits=wide, seed=SEED, size=2000 * count
    )
    found: dict[str, None] = {}
    for entry in task:
        if len(renderer.prompt_ids([Message("user", entry["question"])])) == case.prompt_tokens:
            found[entry["question"]] = None
        if len(found) == count:
            return list(found)
    raise RuntimeError(f"only {len(found)} of {count} prompts have {case.prompt_tokens} tokens")


def checksum_reward(token_ids: Sequence[int]) -> float:
    """A number in [0, 1) that differs between different responses: no group is flat."""
    return sum((place + 1) * int(token) for place, token in enumerate(token_ids)) % 9973 / 9973


def digest(texts: Sequence[str]) -> str:
    """What identifies the questions of a step on both sides."""
    return sha256("\n".join(texts).encode()).hexdigest()[:16]


def reset_peak_memory() -> None:
    """Lets the kernel's peak of this process start again from what it holds now."""
    Path("/proc/self/clear_refs").write_text("5")


def memory_bytes() -> dict[str, int]:
    """Peak since the last reset, and what is held now."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[key].split()[0]) * 1024 for name, key in (("peak", "VmHWM"), ("held", "VmRSS"))}


class Calls:
    """The worker's end: a line of JSON in, one out. What libraries print goes to standard error instead."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # a stopped worker must not outlive its parent
        # Some machines page out the files (libraries, weights) of a process that has stood still for seconds: the side
        # that waits longer would read more of them anew. What a worker has touched stays in memory.
        if libc.mlockall(_MCL_CURRENT_FUTURE_ONFAULT):
            print(f"memory is not locked: {os.strerror(ctypes.get_errno())}", file=sys.stderr)
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def next(self) -> dict[str, Any] | None:
        """The next call, or None when there are no more."""
        line = sys.stdin.readline()
        return json.loads(line) if line.strip() else None

    def answer(self, reply: dict[str, Any]) -> None:
        """Answers the call."""
        print(json.dumps(reply), file=self._out, flush=True)


class Worker:
    """A process that computes only between a call and its answer: in between it is stopped, threads and all."""

    def __init__(self, python: str, script: str, setup: dict[str, Any], log: TextIO) -> None:
        import subprocess

        self._process = subprocess.Popen(
            [python, str(Path(__file__).parent / script)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        self._name, self._running = script, True
        try:
            self.about = self.call(setup)
        except BaseException:
            self.close()
            raise

    def call(self, message: dict[str, Any]) -> dict[str, Any]:
        """Wakes the process, waits for its answer, and stops it again."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.send_signal(signal.SIGCONT)
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._name} ended with exit code {self._process.wait()}; see its log")
        self._process.send_signal(signal.SIGSTOP)
        reply: dict[str, Any] = json.loads(line)
        return reply

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(step: Callable[[], dict[str, Any]], calls: Calls) -> None:
    """Answers each call with a step."""
    while calls.next() is not None:
        calls.answer(step())
