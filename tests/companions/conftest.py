import sys
from pathlib import Path

import pytest
import torch

# The tiny policy is shared with the tests of learners.
sys.path.insert(0, str(Path(__file__).parents[1] / "learning"))


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
