"""Memory that is kept while a stage runs, and given back after it, as the kernel counts it in a process of its own."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys, torch
from thinkrl.models.allocator import keep_freed_memory, release_freed_memory

def held():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) // 1024

class Cycle:
    pass

assert keep_freed_memory()
before = held()
parts = [torch.ones(16 << 20) for _ in range(4)]  # 64 MiB each
pins = [torch.ones(1 << 10) for _ in range(100)]  # behind them, so that the top of the heap is in use
ring = Cycle()
ring.itself, ring.tensor = ring, torch.ones(16 << 20)
full = held()
del parts, ring
kept = held()
assert release_freed_memory()
print(full - before, kept - before, held() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_memory_is_kept_until_it_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    full, kept, left = map(int, done.stdout.split())
    assert full >= 5 * 64
    assert kept >= 4 * 64
    assert left < 64
