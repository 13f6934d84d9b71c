"""A judge's model behind an OpenAI-compatible URL (vLLM's server, or a provider): chat completions over HTTP."""

import asyncio
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx

from thinkrl.config.component import UserError
from thinkrl.judges.backend import Arrived, Surroundings
from thinkrl.judges.chat_answer import Broken, Unusable, read_answer, read_failure
from thinkrl.judges.judgement import Call, Reply
from thinkrl.rollouts.streams import generator
from thinkrl.sampling.sampler import SamplingSpec

_LARGEST_BYTES = 16 << 20
_LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, kw_only=True)
class ChatServer:
    """Asks `URL/chat/completions`, many calls at once, each with a time limit, all with a deadline.

    What is slow, broken off, refused for the moment (408, 425, 429, 5xx) or not in the form of an answer is asked
    again after a pause that doubles, or that the server names in Retry-After. What still has no answer then has a
    fault, and is ungradable. A refused key and an unknown model (401, 403, 404) end the run: every call would fail.
    """

    url: str
    """Where the API begins, such as `http://localhost:8000/v1`."""
    model: str
    """The model's name there."""
    key_from: str = ""
    """Environment variable that holds the API key; empty sends none. The key stands in no file."""
    call_seconds: float = 120.0
    """Longest wait for one answer."""
    batch_seconds: float = 1800.0
    """Longest wait for all answers of a batch; what is not there by then has a fault."""
    attempts: int = 4
    """Times that a call is tried."""
    first_pause: float = 1.0
    """Seconds before the second attempt; each later pause is twice as long, give or take a half."""
    longest_pause: float = 60.0
    """Longest pause that is not asked for by the server, in seconds."""
    connections: int = 16
    """Calls under way at once."""
    limit_key: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the server calls the limit of new tokens."""
    top_logprobs: int = 20
    """Most likely first tokens that are asked for where options are read."""
    body: Mapping[str, Any] = field(default_factory=dict)
    """Further keys of every request, such as `chat_template_kwargs`."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url must begin with http:// or https:// and a host, got {self.url!r}")
        if parts.username or parts.password or parts.query or parts.fragment:
            # It is written to files; the message must not repeat it either.
            raise ValueError("url must hold no user, password or query; a key belongs into the variable of key_from")
        if not self.model:
            raise ValueError("model must not be empty")
        for name in ("call_seconds", "batch_seconds", "first_pause", "longest_pause"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("attempts", "connections", "top_logprobs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def check(self, sampling: SamplingSpec) -> None:
        """Raises UserError when the variable with the key is not set."""
        if self.key_from and not os.environ.get(self.key_from):
            raise UserError(
                f"the judge at {self.url} needs an API key: set the environment variable {self.key_from}, or key_from"
            )

    def open(self, surroundings: Surroundings) -> "OpenChatServer":
        """Reads the key; nothing is asked yet."""
        self.check(SamplingSpec())
        return OpenChatServer(self, os.environ.get(self.key_from, "") if self.key_from else "")


class OpenChatServer:
    """The server with its key; see `OpenBackend` for the contract."""

    def __init__(self, config: ChatServer, key: str) -> None:
        self._config = config
        self._key = key

    @property
    def identity(self) -> Mapping[str, Any]:
        """URL, model, and what every request says beside the call."""
        config = self._config
        return {
            "kind": "chat_server",
            "url": config.url.rstrip("/"),
            "model": config.model,
            "top_logprobs": config.top_logprobs,
            "body": dict(config.body),
        }

    def ask(self, calls: Sequence[Call], sampling: SamplingSpec, arrived: Arrived) -> list[Reply]:
        """A reply to each call, in order. Raises UserError for a refused key or an unknown model."""
        return asyncio.run(self._ask_all(calls, sampling, arrived)) if calls else []

    async def _ask_all(self, calls: Sequence[Call], sampling: SamplingSpec, arrived: Arrived) -> list[Reply]:
        config = self._config
        late = f"no answer from {config.url} before the batch's {config.batch_seconds:g} s were over"
        replies = [Reply(fault=late, attempts=0)] * len(calls)
        async with self._client() as client:
            turns = asyncio.Semaphore(config.connections)
            deadline = time.monotonic() + config.batch_seconds

            async def one(place: int) -> None:
                replies[place] = await self._answer(client, turns, calls[place], sampling, deadline)
                arrived(place, replies[place])

            tasks = [asyncio.create_task(one(place)) for place in range(len(calls))]
            try:
                done, _ = await asyncio.wait(tasks, timeout=config.batch_seconds, return_when=asyncio.FIRST_EXCEPTION)
                for task in done:
                    task.result()  # raises where one failed for all
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        return replies

    async def _answer(
        self, client: httpx.AsyncClient, turns: asyncio.Semaphore, call: Call, sampling: SamplingSpec, deadline: float
    ) -> Reply:
        """The answer to one call, after as many attempts as it takes; a reply with a fault where none is left."""
        config = self._config
        fault = ""
        for attempt in range(1, config.attempts + 1):
            try:
                async with turns:
                    return await self._attempt(client, call, sampling, attempt)
            except Unusable as error:
                return Reply(fault=self._told(str(error)), attempts=attempt)
            except Broken as error:
                fault = self._told(str(error))
                pause = self._pause(call, attempt) if error.wait is None else error.wait
                if attempt == config.attempts:
                    break
                if time.monotonic() + pause >= deadline:
                    return Reply(fault=f"{fault}; the next attempt would be after the deadline", attempts=attempt)
                await asyncio.sleep(pause)
        return Reply(fault=f"{fault} (attempt {config.attempts} of {config.attempts})", attempts=config.attempts)

    async def _attempt(self, client: httpx.AsyncClient, call: Call, sampling: SamplingSpec, attempt: int) -> Reply:
        config = self._config
        try:
            async with asyncio.timeout(config.call_seconds):
                async with client.stream("POST", "chat/completions", json=self._body(call, sampling)) as response:
                    data = bytearray()
                    async for part in response.aiter_bytes():
                        data += part
                        if len(data) > _LARGEST_BYTES:
                            raise Unusable(f"{config.url} answered with more than {_LARGEST_BYTES >> 20} MiB")
        except TimeoutError:
            raise Broken(f"{config.url} gave no answer within {config.call_seconds:g} s") from None
        except httpx.HTTPError as error:
            raise Broken(f"{config.url} broke off ({type(error).__name__}: {error})") from None
        if response.status_code in (401, 403, 404):
            raise UserError(self._told(self._advice(response.status_code, bytes(data))))
        if not response.is_success:
            raise read_failure(config.url, response.status_code, response.headers.get("retry-after"), bytes(data))
        return read_answer(config.url, bytes(data), call.options, attempt)

    def _body(self, call: Call, sampling: SamplingSpec) -> dict[str, Any]:
        config = self._config
        body: dict[str, Any] = {
            "model": config.model,
            "messages": [{"role": turn.role, "content": turn.content} for turn in call.messages],
            "n": 1,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            config.limit_key: sampling.max_new_tokens,
            **({"stop": list(sampling.stop)} if sampling.stop else {}),
            **({"seed": call.key} if sampling.temperature > 0 else {}),
            # Not of OpenAI's API; vLLM knows them. Left out where they say nothing.
            **({"top_k": sampling.top_k} if sampling.top_k else {}),
            **({"min_p": sampling.min_p} if sampling.min_p else {}),
        }
        if call.options:
            body |= {config.limit_key: 1, "logprobs": True, "top_logprobs": config.top_logprobs, "temperature": 0.0}
            body.pop("stop", None)
        return body | dict(config.body)

    def _client(self) -> httpx.AsyncClient:
        config = self._config
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx.Limits(max_connections=config.connections, max_keepalive_connections=config.connections)
        return httpx.AsyncClient(
            base_url=config.url.rstrip("/") + "/",
            headers=headers,
            limits=limits,
            timeout=config.call_seconds,
            trust_env=urlsplit(config.url).hostname not in _LOCAL,  # no proxy between two processes of one machine
        )

    def _pause(self, call: Call, attempt: int) -> float:
        """Doubles from attempt to attempt, and differs from call to call so that they do not return together."""
        config = self._config
        spread = 0.5 + generator("judge pause", call.key, call.call_id, attempt).random()
        return float(min(config.longest_pause, config.first_pause * 2.0 ** (attempt - 1)) * spread)

    def _advice(self, status: int, data: bytes) -> str:
        config = self._config
        said = data[:200].decode("utf-8", errors="replace")
        what = (
            f"does not know the path or the model {config.model!r}"
            if status == 404
            else f"refuses the key of {config.key_from}"
            if config.key_from
            else "wants a key: set key_from"
        )
        return f"the judge at {config.url} {what} (status {status}): {said}"

    def _told(self, text: str) -> str:
        """`text` without the key, which a server may repeat."""
        return text.replace(self._key, "***") if self._key else text
