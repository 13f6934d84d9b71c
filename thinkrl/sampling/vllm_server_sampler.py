"""vLLM in server processes: replicas that the run starts, or servers that run already."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

from thinkrl.config.component import UserError
from thinkrl.models.policy import Policy
from thinkrl.sampling.checksum import weights_checksum
from thinkrl.sampling.sampler import Sample, SampleRequest, SamplingSpec
from thinkrl.sampling.vllm_client import EngineLost, Request, Server, exchange, wait_until_ready
from thinkrl.sampling.vllm_engine import (
    LOGPROBS_MODE,
    VLLMEngine,
    check_logprobs,
    check_weights,
    engine_environment,
    engine_folder,
    require_vllm,
    temporary_folder,
)
from thinkrl.sampling.vllm_processes import ServerProcess
from thinkrl.sampling.vllm_requests import Answer, Call, Generate, VLLMRequests
from thinkrl.sampling.vllm_transport import SharedWeights, http_parts

_MODEL = "policy"
_SERVER_ARGUMENTS = {"served_model_name": _MODEL, "uvicorn_log_level": "warning", "disable_log_stats": True}


@dataclass(frozen=True, kw_only=True)
class VLLMServerSampler(VLLMEngine):
    """Samples from vLLM's OpenAI-compatible servers; the groups of a batch are dealt out to them in turn."""

    replicas: int = 1
    """Servers that the run starts, and ends with itself. Each process of a learner of several starts as many."""
    urls: tuple[str, ...] = ()
    """Servers that run already, such as `http://host:8000`, started by `python -m thinkrl.sampling.vllm_serve`; the
    run then starts none. They hold the run's weights while it lasts, so no two runs can share one."""
    devices: tuple[str, ...] = ()
    """CUDA_VISIBLE_DEVICES of each replica, such as `["1", "2"]`; empty leaves all of them to each."""
    transport: Literal["shared_memory", "http"] = "shared_memory"
    """How weights reach the servers: through memory shared on one machine, or in the bodies of requests."""
    start_seconds: float = 900
    """Longest wait for the servers to start."""
    sync_seconds: float = 900
    """Longest wait for the servers to take over weights."""
    sample_seconds: float = 3600
    """Longest wait for the responses of a batch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.replicas < 1:
            raise ValueError(f"replicas must be at least 1, got {self.replicas}")
        if self.devices and (self.urls or len(self.devices) != self.replicas):
            raise ValueError(f"devices must have an entry for each of {self.replicas} replicas, got {self.devices}")
        for name in ("start_seconds", "sync_seconds", "sample_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")

    def check(self) -> None:
        """Raises UserError when servers are to be started and vLLM is not installed."""
        if not self.urls:
            require_vllm()

    def open(self, policy: Policy) -> "OpenVLLMServerSampler":
        """A sampler that holds the policy's current weights as version 0, on every server."""
        self.check()
        with ExitStack() as opening:
            servers = self._connect() if self.urls else self._start(policy, opening)
            wait_until_ready(servers, self.start_seconds)
            sampler = OpenVLLMServerSampler(self, policy, servers)
            sampler.sync(0)
            sampler.closing = opening.pop_all()
        return sampler

    def _connect(self) -> list[Server]:
        return [Server(f"the vLLM server at {url}", url.rstrip("/")) for url in self.urls]

    def _start(self, policy: Policy, opening: ExitStack) -> list[Server]:
        servers = []
        model = opening.enter_context(engine_folder(policy))
        for index in range(self.replicas):
            name = f"vLLM server {index + 1} of {self.replicas}"
            arguments = {**self.arguments(policy, model), **_SERVER_ARGUMENTS}
            environment = _environment(arguments, on_gpu=policy.device.type == "cuda")
            if self.devices:
                environment["CUDA_VISIBLE_DEVICES"] = self.devices[index]
            process = ServerProcess(name, opening.enter_context(temporary_folder()), arguments, environment)
            opening.callback(process.close)
            servers.append(Server(name, socket=process.socket, ended=process.ended))
        return servers


class OpenVLLMServerSampler:
    """Holds weights of a known version on every server; see `Sampler` for the contract."""

    def __init__(self, config: VLLMServerSampler, policy: Policy, servers: Sequence[Server]) -> None:
        self._config = config
        self._policy = policy
        self._servers = servers
        self._version = 0
        self._models = [_MODEL if server.socket else self._served_model(i) for i, server in enumerate(servers)]
        self._requests = VLLMRequests(policy, min(config.positions(policy), *self._described(), 1 << 62))
        self.closing = ExitStack()

    @property
    def version(self) -> int:
        """Version of the weights held."""
        return self._version

    def sample(self, requests: Sequence[SampleRequest], spec: SamplingSpec) -> list[list[Sample]]:
        """For each request, one sample per stream key, in order; entropies are NaN.

        Raises what `VLLMRequests.sample` raises, and EngineLost when a server is gone or late.
        """
        return self._requests.sample(self._generate, requests, spec, self._version)

    def sync(self, version: int) -> str:
        """Has every server take over the policy's current weights and drop its caches; returns the checksum.

        Raises RuntimeError when a server holds anything else afterwards, or samples with other log-probabilities,
        and EngineLost when one is gone or late.
        """
        sent, reports = self._share(version) if self._config.transport == "shared_memory" else self._post(version)
        for answer, server in zip(self._everywhere("/reset_prefix_cache", {}), self._servers, strict=True):
            if not answer["success"]:
                raise RuntimeError(f"{server.name} did not drop its prefix cache")
        for report, server in zip(reports, self._servers, strict=True):
            check_weights(server.name, sent, report, version)
        self._version = version
        for index, server in enumerate(self._servers):
            generate = self._only(index)
            check_logprobs(server.name, generate, self._policy, self._config.bound(self._policy))
        return sent

    def close(self) -> None:
        """Ends the servers that the run started."""
        self.closing.close()

    def _share(self, version: int) -> tuple[str, list[dict[str, Any]]]:
        shared = SharedWeights()
        try:
            sent = weights_checksum(shared.passing(self._policy.named_weights()))
            return sent, self._call("thinkrl_take_shared", path=shared.path, header=shared.header, version=version)
        finally:
            shared.close()

    def _post(self, version: int) -> tuple[str, list[dict[str, Any]]]:
        sent = weights_checksum(self._policy.named_weights())
        for number, (header, data) in enumerate(http_parts(self._policy.named_weights())):
            self._call("thinkrl_take_part", header=header, data=data, first=number == 0)
        return sent, self._call("thinkrl_take_parts", version=version)

    def _call(self, method: str, **arguments: Any) -> list[dict[str, Any]]:
        """A worker's method on every server."""
        answers = self._everywhere("/collective_rpc", {"method": method, "kwargs": arguments})
        return [answer["results"][0] for answer in answers]

    def _everywhere(self, path: str, body: dict[str, Any] | None) -> list[Any]:
        requests = [Request(index, path, body) for index in range(len(self._servers))]
        return exchange(self._servers, requests, "weights to be taken over", self._config.sync_seconds)

    def _generate(self, calls: Sequence[Call]) -> list[Answer]:
        return self._ask(calls, [call.request % len(self._servers) for call in calls])

    def _only(self, server: int) -> Generate:
        return lambda calls: self._ask(calls, [server] * len(calls))

    def _ask(self, calls: Sequence[Call], places: Sequence[int]) -> list[Answer]:
        if not calls:
            return []
        requests = [
            Request(
                place,
                "/v1/completions",
                {**call.parameters, "model": self._models[place], "prompt": call.prompt_ids, "return_token_ids": True},
            )
            for call, place in zip(calls, places, strict=True)
        ]
        connections = 2 * self._config.batch_size
        answers = exchange(self._servers, requests, f"{len(calls)} responses", self._config.sample_seconds, connections)
        return [_answer(answer["choices"][0]) for answer in answers]

    def _served_model(self, index: int) -> str:
        (answer,) = exchange(
            self._servers, [Request(index, "/v1/models")], "its model's name", self._config.sync_seconds
        )
        return str(answer["data"][0]["id"])

    def _described(self) -> list[int]:
        """Positions of each server, once it is known to be one that a run can use."""
        try:
            found = self._call("thinkrl_describe")
        except EngineLost as error:
            raise UserError(
                f"{error}\n  A server must be started by `python -m thinkrl.sampling.vllm_serve`"
            ) from error
        module = self._policy.module
        expected = {
            "protocol": 1,
            "architecture": type(module).__name__,
            "vocabulary": module.config.vocab_size,
            "dtype": str(module.dtype).removeprefix("torch."),
            "logprobs_mode": LOGPROBS_MODE,
            "workers": 1,
        }
        for server, description in zip(self._servers, found, strict=True):
            wrong = [
                f"{key} {description[key]!r}, not {value!r}"
                for key, value in expected.items()
                if description[key] != value
            ]
            if wrong:
                raise UserError(f"{server.name} cannot sample for this policy: it has {'; '.join(wrong)}")
        return [int(description["positions"]) for description in found]


def _answer(choice: dict[str, Any]) -> Answer:
    return Answer(
        [int(token) for token in choice["token_ids"]], [float(x) for x in choice["logprobs"]["token_logprobs"]]
    )


def _environment(arguments: dict[str, Any], *, on_gpu: bool) -> dict[str, str]:
    """What a server reads from its environment; what the user has set stays."""
    wanted = engine_environment() | {"VLLM_LOGGING_LEVEL": "WARNING"}
    if not on_gpu:
        # The engine's process does the work itself: another one for it would take as long again to start.
        wanted["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    if arguments["enforce_eager"]:
        # Nothing else is compiled, and a one-line comparison would be for fifteen seconds at the first token.
        wanted["TORCHDYNAMO_DISABLE"] = "1"
    return {name: value for name, value in wanted.items() if name not in os.environ}
