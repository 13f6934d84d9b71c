"""The sizes of a model without its weights: from a config.json, or from a table of published ones."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from thinkrl.config.component import ConfigError

TABLE = Path(__file__).with_name("published_shapes.json")
"""Sizes of the models of conf/model by hub id, from their published config.json, with the published number of
parameters (tied embeddings counted once)."""


@dataclass(frozen=True)
class ModelShape:
    """A decoder of Llama's kind (Llama, Mistral, Qwen2, Qwen3, SmolLM2): what decides its memory and its work."""

    family: str
    """transformers' model_type."""
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    """Whether the output projection is the embedding."""
    positions: int
    """Longest sequence, which is how long the rotary tables are."""

    @property
    def head_norms(self) -> bool:
        """Whether queries and keys are normalised (Qwen3)."""
        return self.family == "qwen3"

    @property
    def embedding(self) -> int:
        """Parameters of the embedding, and of the output projection where that is another one."""
        return self.vocabulary * self.hidden

    @property
    def projections(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of the linear layers within a block, by their last names."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (self.hidden, queries),
            "k_proj": (self.hidden, keys),
            "v_proj": (self.hidden, keys),
            "o_proj": (queries, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    @property
    def matrices(self) -> int:
        """Parameters of the matrices of one layer, biases left out: what a token is multiplied with."""
        return sum(inputs * outputs for inputs, outputs in self.projections.values())

    @property
    def parameters(self) -> int:
        """All parameters, tied ones once."""
        vectors = 2 * self.hidden
        if self.family == "qwen2":
            vectors += (self.heads + 2 * self.kv_heads) * self.head_dim
        if self.head_norms:
            vectors += 2 * self.head_dim
        embeddings = self.embedding * (1 if self.tied else 2)
        return embeddings + self.layers * (self.matrices + vectors) + self.hidden

    @property
    def kv_token(self) -> int:
        """Numbers that the cache keeps for one token."""
        return 2 * self.layers * self.kv_heads * self.head_dim


def shape_from_config(config: Mapping[str, Any]) -> ModelShape:
    """The shape that a transformers config.json describes.

    Raises ConfigError when the model is not of Llama's kind.
    """
    try:
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        return ModelShape(
            family=str(config["model_type"]),
            layers=int(config["num_hidden_layers"]),
            hidden=hidden,
            intermediate=int(config["intermediate_size"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or hidden // heads),
            vocabulary=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
            positions=int(config.get("max_position_embeddings") or 0),
        )
    except (KeyError, TypeError, ValueError) as error:
        kind = config.get("model_type", "of no model_type")
        raise ConfigError(f"cannot size a model that is {kind}: its config.json has no usable {error}") from error


def shape_of(model: object) -> ModelShape:
    """The shape of a model component, with nothing downloaded but a config.json, and that only when the model is
    neither a folder, nor in a cache, nor in the table.

    Raises ConfigError that says where it was looked for.
    """
    from thinkrl.models.pretrained import PretrainedModel
    from thinkrl.models.tiny import TinyModel

    if isinstance(model, TinyModel):
        sizes = {name: getattr(model, name) for name in ("layers", "hidden", "intermediate", "heads", "kv_heads")}
        vocabulary = len(model.load_tokenizer())
        return ModelShape(
            family="llama", **sizes, head_dim=model.hidden // model.heads, vocabulary=vocabulary, tied=True,
            positions=model.max_positions,
        )  # fmt: skip
    if isinstance(model, PretrainedModel):
        return _published(model)
    raise ConfigError(f"cannot size a {type(model).__name__}: only TinyModel and PretrainedModel have known shapes")


def local_folder(model: object) -> Path | None:
    """A folder with the model's configuration and tokenizer that is on this machine already, or None."""
    from thinkrl.models.packaged import PACKAGED_MODELS, cache_root
    from thinkrl.models.pretrained import PretrainedModel

    if not isinstance(model, PretrainedModel):
        return None
    if Path(model.source).is_dir():
        return Path(model.source)
    packaged = PACKAGED_MODELS.get(model.source)
    if packaged is not None and (cache_root() / model.source / "config.json").is_file():
        return cache_root() / model.source
    return _hub_cache(packaged.hub_id if packaged else model.source, model.revision)


def _published(model: Any) -> ModelShape:
    from thinkrl.models.packaged import PACKAGED_MODELS

    folder = local_folder(model)
    if folder is not None and (folder / "config.json").is_file():
        return shape_from_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    packaged = PACKAGED_MODELS.get(model.source)
    hub_id = packaged.hub_id if packaged else model.source
    if hub_id in published_shapes():
        return published_shapes()[hub_id]
    return _from_hub(hub_id, model.revision)


@cache
def published_shapes() -> dict[str, ModelShape]:
    """The table's shapes, by hub id."""
    names = [field.name for field in fields(ModelShape)]
    rows = json.loads(TABLE.read_text(encoding="utf-8"))["models"]
    return {hub_id: ModelShape(**{name: row[name] for name in names}) for hub_id, row in rows.items()}


def _hub_cache(hub_id: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(hub_id, "config.json", revision=revision)
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def _from_hub(hub_id: str, revision: str | None) -> ModelShape:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        path = hf_hub_download(hub_id, "config.json", revision=revision)
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise ConfigError(
            f"cannot size the model {hub_id!r}: it is not a folder, not in a cache, not among the known shapes, and"
            f" the hub gave {type(error).__name__}; set model.source to a folder that holds its config.json"
        ) from error
    return shape_from_config(json.loads(Path(path).read_text(encoding="utf-8")))
