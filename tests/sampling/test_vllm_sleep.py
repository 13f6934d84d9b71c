"""An engine that sleeps while the learner works; a stand-in for the engine, since only a GPU's memory can be given."""

from typing import Any

import pytest
import torch

from thinkrl.sampling.vllm_sampler import OpenVLLMSampler, VLLMSampler


class Engine:
    def __init__(self, events: list[str]) -> None:
        self._events = events

    def sleep(self, level: int) -> None:
        self._events.append(f"sleep {level}")

    def wake_up(self) -> None:
        self._events.append("wake")


def sampler(events: list[str], *, sleep: bool) -> OpenVLLMSampler:
    found: Any = OpenVLLMSampler.__new__(OpenVLLMSampler)
    found._config, found._engine, found._awake = VLLMSampler(sleep=sleep), Engine(events), True
    return found


def test_memory_that_torch_keeps_is_given_back_before_the_engine_wakes(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: events.append("empty"))
    found = sampler(events, sleep=True)
    for _ in range(2):
        found._sleep()
        found._sleep()
        found._wake()
        found._wake()
    assert events == ["sleep 1", "empty", "wake"] * 2


def test_an_engine_that_is_not_to_sleep_stays_awake() -> None:
    events: list[str] = []
    found = sampler(events, sleep=False)
    found._sleep()
    found._wake()
    assert events == []
