import subprocess
import sys

PROGRAM = """
import importlib, pkgutil, sys
for room in ("data", "tasks", "environments", "benchmarks"):
    package = importlib.import_module(f"thinkrl.{room}")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"thinkrl.{room}.{module.name}")
print([name for name in ("torch", "transformers", "datasets", "pyarrow", "reasoning_gym") if name in sys.modules])
"""


def test_composing_a_configuration_waits_for_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stdout + done.stderr
