"""The checksum sums bit patterns piece by piece; the sum in one go is what it must equal."""

import pytest
import torch

from thinkrl.sampling import checksum
from thinkrl.sampling.checksum import weights_checksum

PIECE = 1 << 20


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [0, 7, PIECE, PIECE + 3])
def test_pieces_add_up_to_the_whole(dtype: torch.dtype, size: int) -> None:
    bits = checksum._bits(torch.randn(size, generator=torch.Generator().manual_seed(size)).to(dtype))
    assert checksum._sum(bits) == int(bits.sum(dtype=torch.int64))


def test_a_change_behind_the_first_piece_is_seen() -> None:
    weights = torch.zeros(2 * PIECE + 5)
    before = weights_checksum([("w", weights)])
    weights[PIECE + 1] = 1e-30
    assert weights_checksum([("w", weights)]) != before
