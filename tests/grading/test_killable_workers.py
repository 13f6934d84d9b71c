"""The clock holds in every place a grader may be called from, and the pool goes on after a kill."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from thinkrl.grading.mathematics import MathGrader
from thinkrl.grading.verdict import Grade, Verdict
from thinkrl.grading.worker_pool import (
    PoolSpec,
    WorkerDiedError,
    WorkerPool,
    WorkerStartError,
    WorkerTimeoutError,
    shared_pool,
)

ENDLESS = r"\prod_{k=1}^{100000}(1+1/k)"
"""Takes minutes in sympy."""
LIMIT = 1.0


@pytest.fixture(scope="module")
def grader() -> MathGrader:
    grader = MathGrader(timeout_seconds=LIMIT, workers=1)
    # The worker imports its libraries before the clock of any answer starts.
    assert grader.grade("x+1", "1+x").verdict is Verdict.CORRECT
    return grader


def test_kill_in_time_and_go_on(grader: MathGrader) -> None:
    begin = time.monotonic()
    assert grader.grade(ENDLESS, "1").verdict is Verdict.TIMEOUT
    assert time.monotonic() - begin <= LIMIT + 1.0
    assert grader.grade("2x", "x+x").verdict is Verdict.CORRECT
    assert grader.grade("2x", "x+y").verdict is Verdict.WRONG


def test_a_hostile_answer_among_others(grader: MathGrader) -> None:
    answers = ["2x", ENDLESS, "3x", None, ENDLESS, "2x"]
    begin = time.monotonic()
    verdicts = [grade.verdict for grade in grader.grade_all(answers, ["x+x"] * 6)]
    assert verdicts == ["correct", "timeout", "wrong", "wrong", "timeout", "correct"]
    # Equal pairs are checked once, so the two hostile answers cost one limit (and one new worker).
    assert time.monotonic() - begin < 2 * LIMIT + 15.0


def test_from_a_thread(grader: MathGrader) -> None:
    grades: list[Grade] = []
    thread = threading.Thread(target=lambda: grades.append(grader.grade(ENDLESS, "1")))
    thread.start()
    thread.join()
    assert grades[0].verdict is Verdict.TIMEOUT
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda k: grader.grade(f"{k}x+x", f"{k + 1}x").verdict, range(2, 10)))
    assert found == [Verdict.CORRECT] * 8


FROM_CHILDREN = """
import json, multiprocessing, os, sys
from thinkrl.grading.mathematics import MathGrader

def work(queue):
    queue.put(MathGrader(workers=1, timeout_seconds=60.0).grade("2x", "x+x").verdict.value)

# No guard around the main module: workers must not import it.
found = [MathGrader(workers=1, timeout_seconds=60.0).grade("x+x", "2x").verdict.value]
context = multiprocessing.get_context("fork")
queue = context.Queue()
for daemon in (False, True):
    child = context.Process(target=work, args=(queue,), daemon=daemon)
    child.start()
    found.append(queue.get(timeout=60))
    child.join()
found.append(MathGrader(workers=1, timeout_seconds=60.0).grade("3x", "x+x+x").verdict.value)
print(json.dumps(found))
"""


def test_from_child_processes_and_without_a_main_guard() -> None:
    """Forked children (one daemonic) use workers of their own, and the parent's still answer afterwards."""
    done = subprocess.run([sys.executable, "-c", FROM_CHILDREN], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["correct"] * 4


def test_workers_end_with_their_parent() -> None:
    script = (
        "from thinkrl.grading.worker_pool import *\n"
        "spec = PoolSpec('thinkrl.grading.math_worker', 1, 1024)\n"
        "pool = shared_pool(spec)\n"
        "worker = pool._places.get(); from thinkrl.grading.worker_pool import _Worker\n"
        "worker = _Worker(spec); print(worker.process.pid, flush=True); input()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 15.0
    while _alive(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _alive(worker)


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_memory_limit() -> None:
    """The limit counts from what the process already holds, and running into it raises instead of swapping."""
    script = (
        "from thinkrl.grading.math_worker import _limit_memory\n"
        "_limit_memory(64)\n"
        "small = bytearray(16 * 2**20)\n"
        "try: bytearray(256 * 2**20)\n"
        "except MemoryError: print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "refused", done.stderr


ECHO = """
import json, os, signal, sys, time
print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    request = json.loads(line)["request"]
    if request == "die": os._exit(3)
    if request == "hang": time.sleep(1000)
    if request == "half": os.write(1, b'"no line end'); time.sleep(1000)
    print(json.dumps([request, os.getpid()]), flush=True)
"""


@pytest.fixture
def echo(tmp_path, monkeypatch: pytest.MonkeyPatch) -> WorkerPool:
    (tmp_path / "echo_worker.py").write_text(ECHO)
    monkeypatch.syspath_prepend(str(tmp_path))
    pool = WorkerPool(PoolSpec("echo_worker", 2, 1))
    yield pool
    pool.close()


def test_worker_that_dies_is_replaced(echo: WorkerPool) -> None:
    first = echo.ask("a", 10.0)
    with pytest.raises(WorkerDiedError, match="ended"):
        echo.ask("die", 10.0)
    second = echo.ask("b", 10.0)
    assert (first[0], second[0]) == ("a", "b")
    assert first[1] != second[1]


@pytest.mark.parametrize("request_", ["hang", "half"])
def test_worker_that_hangs_is_killed(echo: WorkerPool, request_: str) -> None:
    pid = echo.ask("a", 10.0)[1]
    begin = time.monotonic()
    with pytest.raises(WorkerTimeoutError, match=r"0\.3 s"):
        echo.ask(request_, 0.3)
    assert time.monotonic() - begin < 1.3
    assert not _alive(pid)
    assert echo.ask("b", 10.0)[0] == "b"


def test_worker_killed_from_outside(echo: WorkerPool) -> None:
    os.kill(echo.ask("a", 10.0)[1], signal.SIGKILL)
    time.sleep(0.2)
    assert echo.ask("b", 10.0)[0] == "b"


def test_answers_never_cross(echo: WorkerPool) -> None:
    """After a hang the next request gets its own answer, over many threads."""
    with ThreadPoolExecutor(8) as threads:
        assert [answer[0] for answer in threads.map(lambda k: echo.ask(k, 20.0), range(60))] == list(range(60))


def test_graders_of_one_size_share_a_pool() -> None:
    assert shared_pool(PoolSpec("m", 1, 1)) is shared_pool(PoolSpec("m", 1, 1))
    assert shared_pool(PoolSpec("m", 1, 1)) is not shared_pool(PoolSpec("m", 2, 1))


def test_plain_numbers_start_no_worker() -> None:
    """Numbers are graded in this process: no import of sympy is paid for them."""
    script = (
        "from thinkrl.grading.mathematics import MathGrader; import sys\n"
        "from thinkrl.grading import worker_pool\n"
        "worker_pool._Worker = None\n"
        "print([g.verdict.value for g in MathGrader().grade_all(['1/2', '3', None, '5'], ['0.5', '4', '1', None])])\n"
        "print('sympy' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.split("\n")[:2] == ["['correct', 'wrong', 'wrong', 'ungradable']", "False"], done.stderr


def test_workers_that_do_not_start_are_an_error_and_no_verdict():
    pool = WorkerPool(PoolSpec("thinkrl.no_such_module", 1, 1024))
    with pytest.raises(WorkerStartError, match="does not start"):
        pool.ask({}, 5.0)
