"""The compiled parts of a decode step: equal to their equations in float64, whatever the shapes; optional."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from thinkrl.kernels import build
from thinkrl.kernels.decode import Histories, decode_kernels

needs_compiler = pytest.mark.skipif(decode_kernels(torch.zeros(1)) is None, reason="there is no C compiler")
EPSILON = 1e-5


def drawn(*shape: int, seed: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


class Case:
    """Rows of random lengths behind random prompts."""

    def __init__(
        self, rows: int, prompts: int, kv_heads: int, shared: int, head_dim: int, seed: int, dtype: torch.dtype
    ) -> None:
        self.heads, self.kv_heads, self.head_dim = kv_heads * shared, kv_heads, head_dim
        choose = torch.Generator().manual_seed(seed)
        longest, capacity = 70, 40
        self.joined = drawn(rows, (self.heads + 2 * kv_heads) * head_dim, seed=seed, dtype=dtype)
        self.tables = (
            drawn(longest + capacity, head_dim, seed=seed + 1, dtype=dtype),
            drawn(longest + capacity, head_dim, seed=seed + 2, dtype=dtype),
        )
        self.norms = (drawn(head_dim, seed=seed + 3, dtype=dtype), drawn(head_dim, seed=seed + 4, dtype=dtype))
        self.histories = Histories(
            prompt_keys=drawn(prompts * kv_heads, longest, head_dim, seed=seed + 5, dtype=dtype),
            prompt_values=drawn(prompts * kv_heads, longest, head_dim, seed=seed + 6, dtype=dtype),
            prompt_lengths=torch.randint(1, longest + 1, (prompts,), generator=choose),
            prompt_of=torch.randint(0, prompts, (rows,), generator=choose),
            own_keys=drawn(rows * kv_heads, capacity, head_dim, seed=seed + 7, dtype=dtype),
            own_values=drawn(rows * kv_heads, capacity, head_dim, seed=seed + 8, dtype=dtype),
            own_lengths=torch.randint(0, capacity, (rows,), generator=choose),
        )

    def expected(self, *, normed: bool, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        """Attention by its equation, row by row and head by head, every operation in `dtype`."""
        parts = self.joined.to(dtype).view(len(self.joined), -1, self.head_dim)
        queries, keys, values = parts.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        h, out = self.histories, torch.zeros_like(queries)
        for row in range(len(parts)):
            prompt, own = int(h.prompt_of[row]), int(h.own_lengths[row])
            before = int(h.prompt_lengths[prompt])
            cos, sin = (table[before + own].to(dtype) for table in self.tables)
            for head in range(self.heads):
                kv = head // (self.heads // self.kv_heads)
                query, key = queries[row, head], keys[row, kv]
                if normed:
                    query, key = (
                        x / (x.square().mean() + EPSILON).sqrt() * weight.to(dtype)
                        for x, weight in zip((query, key), self.norms, strict=True)
                    )
                query, key = (x * cos + torch.cat([-x[len(x) // 2 :], x[: len(x) // 2]]) * sin for x in (query, key))
                table, place = prompt * self.kv_heads + kv, row * self.kv_heads + kv
                seen_keys = torch.cat([h.prompt_keys[table, :before], h.own_keys[place, :own]]).to(dtype)
                seen_values = torch.cat([h.prompt_values[table, :before], h.own_values[place, :own]]).to(dtype)
                p = (torch.cat([seen_keys, key[None]]) @ query * self.head_dim**-0.5).softmax(-1)
                out[row, head] = p @ torch.cat([seen_values, values[row, kv][None]])
        return out.flatten(1)

    def run(self, *, normed: bool) -> torch.Tensor:
        kernels = decode_kernels(self.joined)
        assert kernels is not None
        norms = self.norms if normed else None
        return kernels.attend(self.joined, self.heads, norms, EPSILON, self.tables, self.histories, self.head_dim**-0.5)


@needs_compiler
@settings(deadline=None, max_examples=25)
@given(
    rows=st.integers(1, 7),
    prompts=st.integers(1, 3),
    kv_heads=st.integers(1, 3),
    shared=st.integers(1, 4),
    head_dim=st.sampled_from([2, 16, 64, 80, 128]),
    normed=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_attention_equals_its_equation(rows, prompts, kv_heads, shared, head_dim, normed, seed):
    case = Case(rows, prompts, kv_heads, shared, head_dim, seed, torch.float32)
    expected = case.expected(normed=normed)
    assert (case.run(normed=normed) - expected).abs().max() < 1e-4 * max(1.0, float(expected.abs().max()))


@needs_compiler
@pytest.mark.parametrize("normed", [False, True])
def test_attention_in_bfloat16_is_closer_than_operation_by_operation(normed):
    case = Case(8, 2, 3, 3, 64, 1, torch.bfloat16)
    expected = case.expected(normed=normed)
    stepwise = (case.expected(normed=normed, dtype=torch.bfloat16).double() - expected).abs().mean()
    assert float((case.run(normed=normed) - expected).abs().mean()) < float(stepwise)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_new_position_is_written_behind_what_a_row_has_and_nothing_else(dtype):
    case = Case(5, 2, 2, 2, 16, 3, dtype)
    h = case.histories
    before = h.own_keys.clone(), h.own_values.clone()
    case.run(normed=False)
    parts = case.joined.view(5, -1, 16)
    for row in range(5):
        own, position = int(h.own_lengths[row]), int(h.prompt_lengths[h.prompt_of[row]] + h.own_lengths[row])
        for kv in range(2):
            place = row * 2 + kv
            assert torch.equal(h.own_values[place, own], parts[row, 6 + kv])
            key = parts[row, 4 + kv].float()
            turned = key * case.tables[0][position].float()
            turned += torch.cat([-key[8:], key[:8]]) * case.tables[1][position].float()
            assert torch.allclose(h.own_keys[place, own].float(), turned, rtol=2**-8, atol=1e-6)
            before[0][place, own], before[1][place, own] = h.own_keys[place, own], h.own_values[place, own]
    assert torch.equal(h.own_keys, before[0])
    assert torch.equal(h.own_values, before[1])


@needs_compiler
def test_the_number_of_threads_changes_no_bit():
    found = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(Case(9, 2, 3, 3, 64, 5, torch.bfloat16).run(normed=False))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)


@needs_compiler
def test_a_norm_in_float32_and_to_the_bit_the_models_own_in_bfloat16():
    x, weight = drawn(7, 576, seed=1, dtype=torch.float32) * 3, drawn(576, seed=2, dtype=torch.float32)
    wide, narrow = decode_kernels(x), decode_kernels(x.bfloat16())
    assert wide is not None
    assert narrow is not None
    assert torch.allclose(wide.rms_norm(x, weight, EPSILON), functional.rms_norm(x, (576,), weight, EPSILON), atol=1e-5)
    module = LlamaRMSNorm(576, EPSILON).bfloat16()
    module.weight.data.copy_(weight)
    own = narrow.rms_norm(x.bfloat16(), weight.bfloat16(), EPSILON)
    with torch.no_grad():
        expected = module(x.bfloat16())
    # The sum of squares is taken in another order, which may turn a tie.
    assert float((own != expected).float().mean()) < 0.001
    assert torch.allclose(own, expected, rtol=2**-7)


@needs_compiler
def test_weights_that_have_diverged_are_not_hidden():
    case = Case(2, 1, 1, 1, 16, 7, torch.float32)
    case.joined[1] = torch.nan
    found = case.run(normed=False)
    assert bool(torch.isfinite(found[0]).all())
    assert bool(torch.isnan(found[1]).any())


def test_other_precisions_and_devices_have_no_kernels():
    assert decode_kernels(torch.zeros(1, dtype=torch.float16)) is None
    assert decode_kernels(torch.zeros(1, device="meta")) is None


@pytest.mark.parametrize(
    ("compiler", "said"),
    [("/nowhere/cc", "/nowhere/cc"), ("false", "false"), (None, "no C compiler")],
    ids=["missing", "broken", "none"],
)
def test_without_a_compiler_there_are_none_and_the_log_says_why(compiler, said, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("THINKRL_CACHE", str(tmp_path))
    if compiler is None:
        monkeypatch.delenv("CC", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        monkeypatch.setenv("CC", compiler)
    build.library.cache_clear()
    try:
        with caplog.at_level("INFO"):
            assert decode_kernels(torch.zeros(1)) is None
        assert "without compiled kernels" in caplog.text
        assert said in caplog.text
    finally:
        build.library.cache_clear()


@needs_compiler
def test_a_machine_compiles_once_and_a_broken_build_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("THINKRL_CACHE", str(tmp_path))
    program = "import torch; from thinkrl.kernels.decode import decode_kernels; print(decode_kernels(torch.zeros(1)))"
    for _ in range(2):
        ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert "DecodeKernels" in ran.stdout
    (built,) = (tmp_path / "kernels").iterdir()
    stamp = built.stat().st_mtime_ns
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert built.stat().st_mtime_ns == stamp

    cc = tmp_path / "cc"
    cc.write_text('#!/bin/sh\nif [ "$1" = --version ]; then echo broken; else echo "no such target" >&2; exit 1; fi\n')
    cc.chmod(0o755)
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ | {"CC": str(cc)}
    )
    assert ran.stdout.strip() == "None"
    assert [path.name for path in Path(tmp_path / "kernels").iterdir()] == [built.name]
