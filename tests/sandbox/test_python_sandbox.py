import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from thinkrl.sandbox import means as means_room
from thinkrl.sandbox import prepared, python_sandbox
from thinkrl.sandbox.execution import Execution, Limit, SandboxError, limit_of
from thinkrl.sandbox.means import Means, find_means
from thinkrl.sandbox.python_sandbox import PythonSandbox

try:
    find_means()
except SandboxError as missing:
    pytest.skip(str(missing), allow_module_level=True)

SANDBOX = PythonSandbox()
PACKAGE = Path(__file__).parents[2]


def run(program: str) -> Execution:
    return SANDBOX.run_all([program])[0]


def test_a_record_of_what_happened() -> None:
    assert run("print(6 * 7)") == Execution("42\n", "", 0)
    assert run("import sys\nprint('a', file=sys.stderr)\nsys.exit(3)") == Execution("", "a\n", 3)
    assert run("raise SystemExit('so')") == Execution("", "so\n", 1)
    assert run("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)") == Execution("", "", None, "SIGKILL")
    assert run("print(input())").stderr.endswith("EOFError: EOF when reading a line\n")
    assert run("").succeeded
    assert run("import atexit\natexit.register(print, 'last')\nprint('first')").stdout == "first\nlast\n"
    assert run("import threading\nthreading.Timer(0.1, print, ['late']).start()").stdout == "late\n"
    assert (
        run("if __name__ == '__main__': print(__file__, *__import__('sys').argv)").stdout == "program.py program.py\n"
    )


def test_tracebacks_are_the_programs_own() -> None:
    done = run("def f():\n    1 / 0\nf()")
    lines = done.stderr.splitlines()
    assert lines[:2] == ["Traceback (most recent call last):", '  File "program.py", line 3, in <module>']
    assert lines[-1] == "ZeroDivisionError: division by zero"
    assert "thinkrl" not in done.stderr
    assert run("1 +").stderr.startswith('  File "program.py", line 1')


@pytest.mark.parametrize("program", ["\0", "print('\ud800')", "x = " + "(" * 5000, "\ufeffprint(1)", "é = 1\nprint(é)"])
def test_odd_texts_are_the_programs_affair(program: str) -> None:
    done = run(program)
    assert done.exit_code in (0, 1)
    assert done.exit_code == 0 or done.stderr


def test_output_that_is_no_text() -> None:
    assert run("import sys\nsys.stdout.buffer.write(b'\\xff1')").stdout == "\ufffd1"


def test_runs_are_the_same_and_know_nothing_of_each_other() -> None:
    program = (
        "import random, os\nprint(random.random(), hash('a'), sorted(os.environ), os.getpid(), os.listdir('.'))\n"
        "open('mine', 'w').close()\nimport builtins; builtins.mark = 1"
    )
    first, *others = SANDBOX.run_all([program] * 4)
    assert first.succeeded
    assert all(other == first for other in others)


def test_many_run_at_once_and_answer_in_order() -> None:
    programs = [f"import time\ntime.sleep({0.2 if n % 2 else 0.0})\nprint({n})" for n in range(12)]
    done = SANDBOX.run_all(programs)
    assert [one.stdout for one in done] == [f"{n}\n" for n in range(12)]
    assert SANDBOX.run_all([]) == []


def test_limits_read_from_how_a_program_ended() -> None:
    assert limit_of(0, "MemoryError", 0.0, 1.0) is None
    assert limit_of(1, "Traceback\nMemoryError\n", 0.0, 1.0) is Limit.MEMORY
    assert limit_of(1, "MemoryError\nValueError: x", 0.0, 1.0) is None
    assert limit_of(-9, "", 1.01, 1.0) is Limit.CPU
    assert limit_of(-9, "", 0.5, 1.0) is None
    assert limit_of(-24, "", 0.5, 1.0) is Limit.CPU


def test_packages_below_tmp_can_be_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where /tmp has to be a folder, it is no link to the scratch folder, which temporary files go to all the same."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        folder.chmod(0o755)
        (folder / "shown.py").write_text("x = 42")
        monkeypatch.setattr(python_sandbox, "installed_packages", lambda: [str(folder)])
        program = "import shown, tempfile\nprint(shown.x, tempfile.mkstemp()[1].startswith('/scratch/'))"
        (done,) = PythonSandbox(packages=True).run_all([program])
    finally:
        shutil.rmtree(folder)
    assert (done.stdout, done.exit_code) == ("42 True\n", 0)


def test_packages_can_be_shown() -> None:
    assert run("import numpy").exit_code == 1
    done = PythonSandbox(packages=True, memory_mib=2048).run_all(["import numpy\nprint(numpy.arange(3).sum())"])[0]
    assert done.stdout == "3\n", done


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"wall_seconds": 0.0}, "wall_seconds must be above 0, got 0.0"),
        ({"output_kib": -1}, "output_kib must be above 0, got -1"),
        ({"memory_mib": 10}, "memory_mib must be at least 64"),
        ({"open_files": 3}, "open_files must be at least 8"),
    ],
)
def test_bad_fields(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PythonSandbox(**fields)


def test_where_nothing_works_the_refusal_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    find_means.cache_clear()
    try:
        monkeypatch.setattr(means_room, "_users", lambda: {"users": "5 5 5", "groups": "5 5 5", "switch": True})
        with pytest.raises(SandboxError, match=r"namespaces of the kernel: .+; install bubblewrap, or allow"):
            find_means()
        monkeypatch.setattr(means_room.platform, "release", lambda: "5.4.0-generic")
        monkeypatch.setattr(means_room.platform, "machine", lambda: "riscv64")
        with pytest.raises(
            SandboxError, match=r"Linux 5.14 or later, and this is 5.4.0-generic; a processor of x86_64 "
        ):
            find_means()
        monkeypatch.setattr(means_room.sys, "platform", "darwin")
        with pytest.raises(SandboxError, match="it needs Linux, and this is darwin"):
            SANDBOX.run_all(["print(1)"])
    finally:
        monkeypatch.undo()
        find_means.cache_clear()


def test_where_processes_cannot_be_watched_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    find_means.cache_clear()
    try:
        monkeypatch.setattr(prepared, "_below", lambda pid: [])
        with pytest.raises(SandboxError, match="cannot be seen in /proc"):
            find_means()
    finally:
        monkeypatch.undo()
        find_means.cache_clear()


def test_a_command_that_cannot_be_started_is_an_error(tmp_path: Path) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: no permission' >&2\nexit 1\n")
    broken.chmod(0o755)
    settings = {"packages": [], "limits": {}, "disk_bytes": 1 << 20, "disk_files": 100}
    with pytest.raises(SandboxError, match="bwrap: no permission"):
        Means(str(broken)).prepare(settings).wait_ready()
    with pytest.raises(SandboxError, match="cannot be started"):
        Means(str(tmp_path / "none")).prepare(settings)


ASK = (
    "import json, sys\nsys.path.insert(0, {root!r})\nfrom thinkrl.sandbox.means import find_means\n"
    "from thinkrl.sandbox.python_sandbox import PythonSandbox\n"
    "done = PythonSandbox().run_all({programs!r})\n"
    "print(json.dumps([find_means().name, [[one.stdout, one.limit] for one in done]]))"
)
PROGRAMS = [
    "import os\nprint(os.getuid(), os.getpid())",
    "import os, time\nn = 0\ntry:\n    while True:\n        if os.fork() == 0: time.sleep(60)\n        n += 1\n"
    "except BlockingIOError: print(n)",
    "import os\nprint(os.path.exists('/etc/hosts'), os.path.exists('/proc'))",
    "import socket\nsocket.socket()",
    "x = b'x' * 10**9",
    "open('/x', 'w')",
]


def asked(python: str, environment: dict[str, str], **how: Any) -> Any:
    program = ASK.format(root=str(PACKAGE), programs=PROGRAMS)
    done = subprocess.run(
        [python, "-c", program], capture_output=True, text=True, timeout=60, env=environment, check=False, **how
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def plain_user() -> dict[str, Any]:
    """How a process is started as a user that is not root: as it is, or as nobody where this is root."""
    return {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}


def system_python() -> str:
    """An interpreter that every user can start."""
    found = sys.executable if os.geteuid() else "/usr/bin/python3"
    version = [found, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
    if not shutil.which(found) or subprocess.run(version, check=False).returncode:
        pytest.skip("no interpreter that a plain user can start")
    if os.geteuid() == 0 and any(not path.stat().st_mode & 0o001 for path in PACKAGE.parents):
        pytest.skip("a plain user cannot read this folder")
    return found


def test_a_plain_user_has_sandboxes_too() -> None:
    name, results = asked(system_python(), {"PATH": "/nothing"}, **plain_user())
    assert name == "namespaces of the kernel"
    assert [one[0] for one in results] == ["1000 2\n", "15\n", "False False\n", "", "", ""]
    assert results[4][1] == Limit.MEMORY


def test_bubblewrap_makes_the_same_sandbox() -> None:
    bubblewrap = os.environ.get("THINKRL_TEST_BWRAP") or shutil.which("bwrap")
    if not bubblewrap:
        pytest.skip("bubblewrap is not installed")
    path = os.path.dirname(bubblewrap)
    name, results = asked(system_python(), {"PATH": path}, **plain_user())
    assert name == f"bubblewrap ({bubblewrap})"
    assert [one[0] for one in results] == ["1000 2\n", "15\n", "False False\n", "", "", ""]
    assert results[4][1] == Limit.MEMORY


def test_waiting_sandboxes_end_with_this_process() -> None:
    program = (
        f"import sys\nsys.path.insert(0, {str(PACKAGE)!r})\n"
        "from thinkrl.sandbox.python_sandbox import PythonSandbox, _spares\n"
        "PythonSandbox().run_all(['print(1)'])\n"
        "print(*[one._process.pid for ready in _spares._ready.values() for one in ready], flush=True)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    pids = done.stdout.split()
    assert pids
    time.sleep(0.1)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
