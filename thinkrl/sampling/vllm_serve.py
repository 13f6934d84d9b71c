"""`python -m thinkrl.sampling.vllm_serve --model MODEL [ARGUMENTS OF VLLM]`: vLLM's OpenAI-compatible server, set up so
that a run can hand it weights and read the log-probabilities it sampled with."""

import ctypes
import os
import runpy
import signal
import sys
from collections.abc import Sequence

IN_SERVER = "THINKRL_VLLM_SERVER"
PARENT = "THINKRL_VLLM_PARENT"
REQUIRED = (
    "--generation-config=vllm",
    "--logprobs-mode=processed_logprobs",
    "--worker-extension-cls=thinkrl.sampling.vllm_worker.WeightReceiver",
    "--enable-prefix-caching",
)

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int | None) -> None:
    """Has the kernel kill this process when `parent` ends, however that happens (Linux only)."""
    if sys.platform == "linux" and parent is not None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it was faster
            os.kill(os.getpid(), signal.SIGKILL)


def serve(arguments: Sequence[str]) -> None:
    """Runs the server until it is stopped."""
    parent = os.environ.pop(PARENT, None)
    die_with_parent(None if parent is None else int(parent))
    os.environ[IN_SERVER] = "1"
    # The routes through which a worker's methods are called.
    os.environ["VLLM_SERVER_DEV_MODE"] = "1"
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_CPU_ATTN_SPLIT_KV", "0")
    sys.argv = ["vllm", *arguments, *REQUIRED]
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")


if __name__ == "__main__":
    serve(sys.argv[1:])
