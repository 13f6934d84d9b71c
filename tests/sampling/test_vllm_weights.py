"""Weights as bytes between processes, and read back from a model that fuses and packs them."""

import json
import mmap
import subprocess
import sys

import pytest
import torch
from torch import nn

from thinkrl.sampling.checksum import weights_checksum
from thinkrl.sampling.vllm_transport import SharedWeights, http_parts, read_weights
from thinkrl.sampling.vllm_weights import SentWeights, held_weights, repack


def some_weights():
    generator = torch.Generator().manual_seed(0)
    return [
        ("a.weight", torch.randn(5, 3, generator=generator)),
        ("b.weight", torch.randn(7, 2, generator=generator).to(torch.bfloat16)),
        ("c.bias", torch.zeros(0)),
        ("d.weight", torch.randn(4, 6, generator=generator).t()),
        ("e.scale", torch.tensor(3.5)),
    ]


def test_another_process_reads_the_shared_bytes():
    shared = SharedWeights()
    sent = weights_checksum(shared.passing(some_weights()))
    program = (
        "import sys; from thinkrl.sampling.vllm_worker import WeightReceiver; from thinkrl.sampling.checksum import"
        " weights_checksum\n"
        "receiver = WeightReceiver(); receiver.thinkrl_take = lambda weights, version: weights_checksum(weights)\n"
        "print(receiver.thinkrl_take_shared(sys.argv[1], sys.argv[2], 1))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, shared.path, shared.header], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == sent, done.stderr
    shared.close()


def test_parts_of_requests_add_up(monkeypatch):
    monkeypatch.setattr("thinkrl.sampling.vllm_transport._PART_BYTES", 64)
    from thinkrl.sampling.vllm_worker import WeightReceiver

    receiver = WeightReceiver()
    parts = list(http_parts(some_weights()))
    assert len(parts) > 2
    for number, (header, data) in enumerate(json.loads(json.dumps(parts))):
        receiver.thinkrl_take_part(header, data, first=number == 0)
    monkeypatch.setattr(receiver, "thinkrl_take", lambda weights, version: weights_checksum(weights), raising=False)
    assert receiver.thinkrl_take_parts(1) == weights_checksum(some_weights())


def test_headers_that_lie_are_refused():
    memory = mmap.mmap(-1, 64)
    entry = {"name": "a", "dtype": "torch.float32", "shape": [100], "offset": 0}
    with pytest.raises(ValueError, match="buffer"):
        list(read_weights(memory, json.dumps([entry])))
    with pytest.raises(ValueError, match=r"a has dtype torch\.complex64"):
        list(read_weights(memory, json.dumps([entry | {"dtype": "torch.complex64"}])))
    with pytest.raises(ValueError, match=r"x has dtype torch\.int64"):
        list(http_parts([("x", torch.zeros(2, dtype=torch.int64))]))


class Packing:
    """Keeps the matrix away from the module, as vLLM does on a processor."""

    def __init__(self, keep):
        self.keep = keep

    def process_weights_after_loading(self, module):
        matrix = module.weight.data.clone() + 0.0  # a product gives zeros no sign
        module.cpu_linear = lambda x, weight, bias: x @ matrix.t()
        if not self.keep:
            module.weight = nn.Parameter(torch.empty(0, dtype=matrix.dtype), requires_grad=False)

    def apply(self, module, x):
        return module.cpu_linear(x, module.weight, None)


class Linear(nn.Module):
    def __init__(self, matrix, sizes, keep=False):
        super().__init__()
        self.weight = nn.Parameter(matrix.clone(), requires_grad=False)
        self.output_partition_sizes, self.input_size_per_partition = sizes, matrix.shape[1]
        self.quant_method = Packing(keep)
        self.quant_method.process_weights_after_loading(self)


class ParallelLMHead(Linear):
    """Known to the reader by its name."""


class Fused(nn.Module):
    packed_modules_mapping = {"qkv_proj": ["q_proj", "k_proj", "v_proj"]}  # noqa: RUF012

    def __init__(self, q, k, v, embedding):
        super().__init__()
        self.attn = nn.Module()
        self.attn.qkv_proj = Linear(torch.cat([q, k, v]), [len(q), len(k), len(v)])
        self.embed = nn.Module()
        padded = torch.cat([embedding, torch.zeros(3, embedding.shape[1])])
        self.embed.weight = nn.Parameter(padded, requires_grad=False)
        self.lm_head = ParallelLMHead(padded, [len(padded)], keep=True)
        self.lm_head.weight = self.embed.weight


@pytest.fixture
def fused():
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(rows, 600, generator=generator) for rows in (4, 2, 2))
    q[1, 2], k[0, 0], k[0, 1] = -0.0, 1e-40, 0.0
    embedding = torch.randn(5, 8, generator=generator)
    named = {"attn.q_proj.weight": q, "attn.k_proj.weight": k, "attn.v_proj.weight": v, "embed.weight": embedding}
    return Fused(q, k, v, embedding), named


def sent_of(named):
    sent = SentWeights(named.items())
    assert [name for name, _ in sent] == list(named)
    return sent


def test_fused_packed_padded_and_tiny_values_are_read_back_bit_for_bit(fused):
    model, named = fused
    sent = sent_of(named)
    assert sorted(sent.tiny) == ["attn.k_proj.weight", "attn.q_proj.weight"]
    assert weights_checksum(held_weights(model, sent)) == weights_checksum(named.items())


def test_one_value_that_differs_in_a_packed_matrix_is_seen(fused):
    model, named = fused
    changed = {**named, "attn.v_proj.weight": named["attn.v_proj.weight"].clone()}
    changed["attn.v_proj.weight"][1, 599] += 1e-3
    assert weights_checksum(held_weights(model, sent_of(changed))) != weights_checksum(changed.items())


def test_a_tiny_value_is_believed_only_where_the_kernel_gives_none(fused):
    model, named = fused
    changed = {**named, "attn.q_proj.weight": named["attn.q_proj.weight"].clone()}
    changed["attn.q_proj.weight"][0, 0] = 1e-40
    assert weights_checksum(held_weights(model, sent_of(changed))) != weights_checksum(changed.items())


def test_a_tied_head_that_kept_its_packed_copy_is_seen_and_put_right(fused):
    model, named = fused
    model.embed.weight.data += 1
    named["embed.weight"] = model.embed.weight.data[:5].clone()
    with pytest.raises(RuntimeError, match="lm_head computes with other weights than it shows"):
        list(held_weights(model, sent_of(named)))
    repack(model)
    assert weights_checksum(held_weights(model, sent_of(named))) == weights_checksum(named.items())


def test_names_without_a_place_and_places_without_a_name_are_refused(fused):
    model, named = fused
    with pytest.raises(RuntimeError, match=r"Fused has no place for mlp\.up\.weight"):
        list(held_weights(model, sent_of({**named, "mlp.up.weight": torch.zeros(1)})))
    with pytest.raises(RuntimeError, match=r"parameters that were not sent: embed\.weight"):
        list(held_weights(model, sent_of({k: v for k, v in named.items() if k != "embed.weight"})))
    with pytest.raises(RuntimeError, match="in shape"):
        list(held_weights(model, sent_of({**named, "embed.weight": torch.zeros(50, 8)})))
