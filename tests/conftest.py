"""For all tests: no hub. What is not on the disk is not there, at once and not after retries."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
