"""Rollouts on disk: one parquet file a step, one row a response, readable by any table tool.

The file gives the rollouts back bit for bit. The same rollouts give the same bytes, so a step that
is repeated after a resume leaves the same file.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from thinkrl.rollouts.calls import CallRecord
from thinkrl.rollouts.cuts import Cut
from thinkrl.rollouts.episodes import Episode
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.store import FinishReason, Group, Rollouts
from thinkrl.tracking.atomic import replace_file
from thinkrl.tracking.errors import RunError
from thinkrl.tracking.json_values import dump_json, load_json

Columns = Mapping[str, Sequence[Any] | NDArray[Any] | Ragged]
"""Values beside the rollouts by name, n each."""

_TOKENS = {
    "token_ids": np.int32,
    "origins": np.uint8,
    "logprobs": np.float32,
    "entropies": np.float32,
    "versions": np.int32,
    "char_ends": np.int32,
}
_RESPONSE = ("stage", "step", "group_id", "response_id", "prompt_id", "source", "messages", "reference", "metadata")
_OWN = {*_RESPONSE, "prompt_ids", "text", "finish_reason", "cut", "episode", "tool_calls", *_TOKENS}
_METADATA = b"thinkrl"
_ROW_GROUP = 256
"""Responses that a reader of one of them has to decode."""


@dataclass(frozen=True, eq=False)
class StoredRollouts:
    """What a rollout file holds. `columns`: everything beside the rollouts, a list [n] each."""

    stage: str
    step: int
    rollouts: Rollouts
    columns: dict[str, list[Any]]


def write_rollouts(path: Path, rollouts: Rollouts, columns: Columns, stage: str, step: int) -> None:
    """Writes every response with its prompt, its tokens and `columns`, replacing `path` atomically.

    columns: n values each: numbers (NaN stays NaN), texts, verdicts, None where there is nothing,
        or a Ragged aligned with the responses for values per token or span.
    Raises ValueError for a column of another length or with a name that is taken, RunError when
    the disk refuses.
    """
    taken = sorted(_OWN & columns.keys())
    if taken:
        raise ValueError(f"columns must not use the names {taken}")
    for name, column in columns.items():
        if len(column) != len(rollouts):
            raise ValueError(f"column {name!r} has {len(column)} values for {len(rollouts)} responses")
    arrays = _prompt_arrays(rollouts)
    arrays["text"] = pa.array(rollouts.texts, pa.string())
    arrays["finish_reason"] = pa.array([str(reason) for reason in rollouts.finish_reasons], pa.string())
    arrays |= {name: _list_array(getattr(rollouts, name)) for name in _TOKENS}
    if rollouts.cuts:
        cuts = [None if cut is None else dump_json(cut.as_json()) for cut in rollouts.cuts]
        arrays["cut"] = pa.array(cuts, pa.string())
    if rollouts.episodes:
        episodes = [None if one is None else dump_json(one.as_json()) for one in rollouts.episodes]
        arrays["episode"] = pa.array(episodes, pa.string())
    if rollouts.calls:
        called = [dump_json([call.as_json() for call in calls]) for calls in rollouts.calls]
        arrays["tool_calls"] = pa.array(called, pa.string())
    arrays |= {name: _column_array(column) for name, column in columns.items()}
    here = {
        "stage": pa.array([stage] * len(rollouts), pa.string()),
        "step": pa.array([step] * len(rollouts), pa.int64()),
    }
    about = {"format": 1, "stage": stage, "step": step, "groups": [_group_json(g) for g in rollouts.groups]}
    table = pa.table(here | arrays).replace_schema_metadata({_METADATA: dump_json(about).encode()})
    with replace_file(path, needed=table.nbytes) as aside:
        pq.write_table(table, aside, compression="zstd", row_group_size=_ROW_GROUP)


def read_rollouts(path: Path) -> StoredRollouts:
    """Reads what `write_rollouts` wrote. Raises RunError when the file is not whole or not one of these."""
    try:
        table = pq.read_table(path, partitioning=None)
        about = load_json((table.schema.metadata or {})[_METADATA])
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise RunError(f"{path} is not a rollout file: {error}") from error
    groups = tuple(_group_from_json(group) for group in about["groups"])
    position = {group.group_id: index for index, group in enumerate(groups)}
    tokens = {name: _ragged(table[name], dtype) for name, dtype in _TOKENS.items()}
    cuts = table["cut"].to_pylist() if "cut" in table.column_names else []
    episodes = table["episode"].to_pylist() if "episode" in table.column_names else []
    called = table["tool_calls"].to_pylist() if "tool_calls" in table.column_names else []
    rollouts = Rollouts(
        groups=groups,
        group_index=np.asarray([position[name] for name in table["group_id"].to_pylist()], dtype=np.int64),
        response_ids=tuple(table["response_id"].to_pylist()),
        texts=tuple(table["text"].to_pylist()),
        finish_reasons=tuple(FinishReason(reason) for reason in table["finish_reason"].to_pylist()),
        cuts=tuple(None if cut is None else Cut.from_json(load_json(cut)) for cut in cuts),
        episodes=tuple(None if one is None else Episode.from_json(load_json(one)) for one in episodes),
        calls=tuple(tuple(map(CallRecord.from_json, load_json(calls))) for calls in called),
        **tokens,
    )
    columns = {name: table[name].to_pylist() for name in table.column_names if name not in _OWN}
    return StoredRollouts(about["stage"], about["step"], rollouts, columns)


def _prompt_arrays(rollouts: Rollouts) -> dict[str, Any]:
    """The prompt of each response as columns. Readers of the table need no other file."""
    groups = [rollouts.groups[index] for index in rollouts.group_index]
    prompts = [group.prompt for group in groups]
    texts = {
        "group_id": [group.group_id for group in groups],
        "response_id": rollouts.response_ids,
        "prompt_id": [prompt.prompt_id for prompt in prompts],
        "source": [prompt.source for prompt in prompts],
        "messages": [_messages_json(prompt) for prompt in prompts],
        "reference": [dump_json(prompt.reference) for prompt in prompts],
        "metadata": [dump_json(prompt.metadata) for prompt in prompts],
    }
    arrays = {name: pa.array(values, pa.string()) for name, values in texts.items()}
    return arrays | {"prompt_ids": _list_array(Ragged.from_rows([group.prompt_ids for group in groups], np.int32))}


def _messages_json(prompt: Prompt) -> str:
    turns = [{"role": message.role, "content": message.content} for message in prompt.messages]
    return json.dumps(turns, ensure_ascii=False)


def _group_json(group: Group) -> dict[str, Any]:
    prompt = group.prompt
    return {
        "group_id": group.group_id,
        "prompt_ids": group.prompt_ids.tolist(),
        "prompt_id": prompt.prompt_id,
        "messages": _messages_json(prompt),
        "reference": prompt.reference,
        "source": prompt.source,
        "metadata": prompt.metadata,
    }


def _group_from_json(stored: Mapping[str, Any]) -> Group:
    prompt = Prompt(
        prompt_id=stored["prompt_id"],
        messages=tuple(Message(turn["role"], turn["content"]) for turn in json.loads(stored["messages"])),
        reference=stored["reference"],
        source=stored["source"],
        metadata=stored["metadata"],
    )
    return Group(stored["group_id"], prompt, np.asarray(stored["prompt_ids"], dtype=np.int32))


def _list_array(column: Ragged) -> Any:
    values = pa.array(np.ascontiguousarray(column.values), from_pandas=False)
    return pa.LargeListArray.from_arrays(pa.array(column.offsets, pa.int64()), values)


def _column_array(column: Sequence[Any] | NDArray[Any] | Ragged) -> Any:
    if isinstance(column, Ragged):
        return _list_array(column)
    if isinstance(column, np.ndarray):
        return pa.array(column, from_pandas=False)
    return pa.array([str(value) if isinstance(value, str) else value for value in column], from_pandas=False)


def _ragged(column: Any, dtype: Any) -> Ragged:
    lists = column.combine_chunks()
    if isinstance(lists, pa.ChunkedArray):
        lists = pa.concat_arrays(lists.chunks)
    offsets = lists.offsets.to_numpy().astype(np.int64)
    values = lists.values.to_numpy(zero_copy_only=False)[offsets[0] : offsets[-1]]
    return Ragged(np.asarray(values, dtype=dtype), offsets - offsets[0])
