"""Programs that try to get out of the sandbox, to starve what is around it, or to leave something behind.

Each attack prints ESCAPED where it gets through. Those that do no harm are also run without a sandbox, to see that
they would get through there.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from thinkrl.sandbox.execution import Execution, Limit, SandboxError
from thinkrl.sandbox.means import find_means
from thinkrl.sandbox.python_sandbox import PythonSandbox

try:
    find_means()
except SandboxError as missing:
    pytest.skip(str(missing), allow_module_level=True)

SANDBOX = PythonSandbox(wall_seconds=10.0, cpu_seconds=3, memory_mib=256, disk_mib=8, file_mib=4, output_kib=16)
SECRET = "a-secret-of-the-parent"


def run(program: str, sandbox: PythonSandbox = SANDBOX) -> Execution:
    return sandbox.run_all([program])[0]


def outside(program: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=20, cwd=folder, check=False
    )
    return done.stdout


@pytest.fixture
def server() -> Iterator[int]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def attempt(statement: str) -> str:
    body = "\n".join(f"    {line}" for line in statement.splitlines())
    return f"try:\n{body}\n    print('ESCAPED')\nexcept BaseException as error:\n    print(type(error).__name__)\n"


def held(program: str) -> None:
    done = run(program)
    assert "ESCAPED" not in done.stdout, done
    assert done.stdout, done


def test_tcp(server: int, tmp_path: Path) -> None:
    attack = attempt(f"import socket\nsocket.create_connection(('127.0.0.1', {server}), 2)")
    assert "ESCAPED" in outside(attack, tmp_path)
    held(attack)


def test_udp(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        attack = attempt(f"import socket\nsocket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))")
        assert "ESCAPED" in outside(attack, tmp_path)
        held(attack)


def test_abstract_unix_socket(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        name = f"\0thinkrl-test-{os.getpid()}"
        listening.bind(name)
        listening.listen()
        attack = attempt(f"import socket\nsocket.socket(socket.AF_UNIX).connect({name!r})")
        assert "ESCAPED" in outside(attack, tmp_path)
        held(attack)


def test_unix_socket_by_path(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        path = tmp_path / "s"
        listening.bind(str(path))
        listening.listen()
        attack = attempt(f"import socket\nsocket.socket(socket.AF_UNIX).connect({str(path)!r})")
        assert "ESCAPED" in outside(attack, tmp_path)
        held(attack)


@pytest.mark.parametrize(
    "statement",
    [
        "import socket\nsocket.getaddrinfo('example.com', 80)",
        "import socket\nsocket.socket(40, socket.SOCK_STREAM)",  # AF_VSOCK: no network namespace holds it
        "import socket\nsocket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    ],
)
def test_names_and_other_networks(statement: str) -> None:
    held(attempt(statement))


def test_files_outside_cannot_be_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    attack = attempt(f"assert open({str(secret)!r}).read()")
    assert "ESCAPED" in outside(attack, tmp_path)
    held(attack)
    here = str(Path(__file__))
    for path in ("/etc/shadow", "/etc/hosts", here, "/proc/self/environ", "/proc/1/root/etc/hosts", "/sys/kernel"):
        held(attempt(f"import os\nos.stat({path!r})"))
    assert "root" not in run("print(open('/etc/passwd').read())").stdout
    home = run("import os\nprint([os.listdir(p) for p in ('/home', '/root', '/work') if os.path.isdir(p)])").stdout
    assert ".ssh" not in home
    assert ".bash" not in home


@pytest.mark.parametrize("path", ["/x", "/etc/x", "/usr/lib/x", "/dev/x", "/lib/x", "{base}/lib/x", "{packages}/x.pth"])
def test_nothing_outside_the_scratch_folder_can_be_written(path: str) -> None:
    place = path.format(base=sys.base_prefix, packages=os.path.dirname(os.__file__))
    held(attempt(f"open({place!r}, 'w')"))


def test_links_lead_nowhere(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    symbolic = attempt(f"import os\nos.symlink({str(secret)!r}, 'l')\nassert open('l').read()")
    assert "ESCAPED" in outside(symbolic, tmp_path)
    held(symbolic)
    hard = attempt(f"import os\nos.link({str(secret)!r}, 'h')\nassert open('h').read()")
    assert "ESCAPED" in outside(hard, tmp_path)
    held(hard)
    held(attempt("import os\nos.link(os.__file__, 'h')"))
    held(attempt("open('../' * 20 + 'etc/hosts')"))


def test_the_parents_environment_and_processes_are_out_of_sight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THINKRL_SECRET", SECRET)
    attack = "import os\nprint(os.environ)\n" + attempt(
        f"assert {os.getpid()} in map(int, filter(str.isdigit, os.listdir('/proc')))"
    )
    assert "ESCAPED" in outside(attack, tmp_path)
    assert SECRET in outside(attack, tmp_path)
    done = run(attack)
    assert "ESCAPED" not in done.stdout
    assert SECRET not in done.stdout


def test_signals_reach_nobody(tmp_path: Path) -> None:
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        attack = attempt(f"import os\nos.kill({victim.pid}, 0)")
        assert "ESCAPED" in outside(attack, tmp_path)
        held(attempt(f"import os\nos.kill({victim.pid}, 9)"))
        run("import os, signal\nfor p in (-1, 0, 1, os.getppid()): os.kill(p, signal.SIGKILL)")
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


def test_the_first_process_outlives_its_program() -> None:
    done = run(
        "import os, signal\nfor s in (signal.SIGKILL, signal.SIGSTOP, signal.SIGINT, signal.SIGTERM): os.kill(1, s)\n"
        "print('alive')"
    )
    assert (done.stdout, done.exit_code) == ("alive\n", 0)


def test_ptrace_and_namespaces_and_mounts() -> None:
    calls = {"ptrace": (16, 1, 0, 0), "process_vm_readv": (1, 0, 0, 0, 0, 0), "unshare": (0x10000000,)}
    for name, arguments in calls.items():
        attack = f"import ctypes\nc = ctypes.CDLL(None, use_errno=True)\nr = c.{name}{arguments}\n"
        done = run(attack + "print('ESCAPED' if r >= 0 else ctypes.get_errno())")
        assert done.stdout == "1\n", (name, done)
    held(attempt("import ctypes\nassert ctypes.CDLL(None).mount(b'x', b'/scratch', b'tmpfs', 0, None) == 0"))
    held(attempt("import os\nos.chroot('/scratch')"))
    held(attempt("import os\nos.setuid(0)"))
    held(attempt("import os\nos.mknod('d', 0o60600, os.makedev(254, 0))"))
    held(attempt("import os\nos.memfd_create('x')"))


def test_rights_cannot_be_gained() -> None:
    done = run("import os\nos.chmod('program.py', 0o6755)\nprint(os.getuid(), os.geteuid(), os.getgroups())")
    assert done.stdout.startswith("1000 1000 ")
    assert "ESCAPED" not in run(attempt("import time\ntime.clock_settime(time.CLOCK_REALTIME, 0)")).stdout
    held(attempt("import resource as r\nr.setrlimit(r.RLIMIT_NPROC, (10**6, 10**6))"))
    held(attempt("import os\nos.nice(-5)"))


@pytest.mark.skipif(find_means().bubblewrap is not None, reason="bubblewrap mounts no folder without execution")
def test_written_libraries_are_not_loaded() -> None:
    source = "import shutil, _ctypes\nshutil.copy(_ctypes.__file__, 'x.so')\nimport ctypes\nctypes.CDLL('./x.so')"
    held(attempt(source))


def test_no_descriptor_is_inherited(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    attack = (
        "import os\nfor n in range(3, 512):\n    try:\n        os.fstat(n)\n        print('ESCAPED', n)\n"
        "    except OSError:\n        pass\nprint('done')"
    )
    with secret.open() as file:
        os.set_inheritable(file.fileno(), True)
        held(attack)


def test_a_fork_bomb_ends_and_leaves_nothing() -> None:
    start = time.monotonic()
    done = run("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", short(1.0))
    assert done.limit in (Limit.WALL, Limit.CPU)
    assert time.monotonic() - start < 8
    counted = run(
        "import os, time\nn = 0\ntry:\n    while True:\n        if os.fork() == 0: time.sleep(60)\n        n += 1\n"
        "except BlockingIOError: print(n)"
    )
    assert int(counted.stdout) == SANDBOX.processes - 1


def short(seconds: float) -> PythonSandbox:
    return PythonSandbox(wall_seconds=seconds, cpu_seconds=3, memory_mib=256, disk_mib=8, file_mib=4, output_kib=16)


def test_memory_bombs() -> None:
    assert run("x = bytearray(10**9)").limit is Limit.MEMORY
    assert run("x = []\nwhile True: x.append('a' * 10**6 + str(len(x)))").limit is Limit.MEMORY
    many = "import os, time\nfor _ in range(6):\n    if os.fork() == 0: break\nx = b'x' * 120_000_000\ntime.sleep(20)"
    assert run(many).limit is Limit.MEMORY
    shared = (
        "import mmap, os, time\nfor _ in range(6):\n    if os.fork() == 0: break\n"
        "m = mmap.mmap(-1, 120_000_000)\nm[:] = b'x' * 120_000_000\ntime.sleep(20)"
    )
    assert run(shared).limit is Limit.MEMORY


def test_disk_files_and_descriptors_are_limited() -> None:
    assert run("open('f', 'wb').write(b'x' * 5_000_000)").limit is Limit.FILE_SIZE
    fill = "for n in range(9): open(f'/{0}/f{n}', 'wb').write(b'x' * 1_500_000)"
    assert run(fill.replace("{0}", "scratch")).limit is Limit.DISK
    assert run(fill.replace("{0}", "dev/shm")).limit is Limit.DISK
    assert run("for n in range(10**6): open(f'f{n}', 'w').close()").limit is Limit.DISK
    assert run("x = [open('/dev/null') for _ in range(1000)]").limit is Limit.OPEN_FILES
    threads = "import threading, time\nfor _ in range(99): threading.Thread(target=time.sleep, args=(9,)).start()"
    assert run("import os\n" + threads.replace("9,)", "9,), daemon=True")).limit is Limit.PROCESSES


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_floods(stream: str) -> None:
    done = run(f"import sys\nwhile True: sys.{stream}.write('y' * 10_000)")
    assert done.limit is Limit.OUTPUT
    assert getattr(done, stream) == "y" * 16 * 1024
    assert {"stdout": done.stderr, "stderr": done.stdout}[stream] == ""


def test_endless_loops_that_ignore_signals() -> None:
    deaf = (
        "import signal\nfor s in range(1, 32):\n    try: signal.signal(s, signal.SIG_IGN)\n    except OSError: pass\n"
    )
    start = time.monotonic()
    assert run(deaf + "while True: pass", short(0.5)).limit is Limit.WALL
    assert run(deaf + "import time; time.sleep(60)", short(0.5)).limit is Limit.WALL
    assert time.monotonic() - start < 6
    quick = PythonSandbox(wall_seconds=30.0, cpu_seconds=1)
    assert run("while True: pass", quick).limit is Limit.CPU


def sandboxed_processes() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if b"zombie-of-a-test" in path.read_bytes():
                found.append(str(path))
    return found


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    mounts = Path("/proc/self/mountinfo").read_text()
    before = set(os.listdir("/tmp")) | set(os.listdir("/dev/shm"))
    program = (
        "import os, sys, time\nopen('/scratch/left', 'w').write('x')\nopen('/dev/shm/left', 'w').write('x')\n"
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(600)', 'zombie-of-a-test'])\n"
        "    os._exit(0)\ntime.sleep(0.2)\nfor _ in range(5):\n    if os.fork() == 0: os._exit(0)\nprint('left')"
    )
    done = run(program)
    assert (done.stdout, done.exit_code) == ("left\n", 0), done
    assert done.seconds < 8
    assert sandboxed_processes() == []
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert not {name for name in set(os.listdir("/tmp")) | set(os.listdir("/dev/shm")) if name == "left"} - before
    assert run("import os\nprint(os.listdir('.'), os.listdir('/dev/shm'))").stdout == "['program.py'] []\n"


def test_a_parent_that_is_killed_takes_the_sandbox_with_it(tmp_path: Path) -> None:
    inner = "import os, sys; os.execv(sys.executable, [sys.executable, '-c', 'while 1: pass', 'zombie-of-a-test'])"
    parent = (
        "from thinkrl.sandbox.python_sandbox import PythonSandbox\n"
        f"PythonSandbox(wall_seconds=60.0, cpu_seconds=60).run_all([{inner!r}])"
    )
    process = subprocess.Popen([sys.executable, "-c", parent])
    try:
        deadline = time.monotonic() + 20
        while not sandboxed_processes() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert sandboxed_processes()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + 10
    while sandboxed_processes() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sandboxed_processes() == []
