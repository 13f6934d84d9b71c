"""By which means sandboxes are made on this machine, or what is missing for it."""

import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from thinkrl.sandbox.execution import SandboxError
from thinkrl.sandbox.inside import SCRATCH
from thinkrl.sandbox.launcher import HOST_NAME, INSIDE_ID
from thinkrl.sandbox.prepared import Bounds, Prepared
from thinkrl.sandbox.system_calls import AUDIT

NOBODY = 65534
"""The user outside that a program runs as where root starts it."""
OLDEST_LINUX = (5, 14)
"""Earlier kernels count the processes of a user, not those of a sandbox."""
ENVIRONMENT = {
    "PATH": "/usr/bin",
    "HOME": SCRATCH,
    "TMPDIR": SCRATCH,
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONUTF8": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
"""All that a program finds in its environment: the same in every run, and nothing of this process's."""
_ROOT = Path(__file__).parents[2]
_START = (
    "import sys; own = list(sys.path); sys.path.insert(0, {root!r}); "
    "from thinkrl.sandbox.launcher import main; sys.path[:] = own; sys.exit(main(sys.argv[1]))"
)
_PROBE: dict[str, Any] = {"packages": [], "limits": {}, "disk_bytes": 1 << 20, "disk_files": 256}
_ADVICE = (
    "install bubblewrap, or allow unprivileged user namespaces (sysctl user.max_user_namespaces, "
    "kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns; "
    "in a container, its seccomp profile)"
)


@dataclass(frozen=True)
class Means:
    """A way to make sandboxes that works here. `bubblewrap`: its program, where that makes the namespaces.

    Under bubblewrap a program can load libraries that it wrote itself; it may do no more with them than without.
    """

    bubblewrap: str | None = None

    @property
    def name(self) -> str:
        """The means in words."""
        return f"bubblewrap ({self.bubblewrap})" if self.bubblewrap else "namespaces of the kernel"

    @property
    def own_processes(self) -> int:
        """Processes of a sandbox itself that count among its user's: the first, and the one that made it."""
        return 1 if self.bubblewrap else 2

    def prepare(self, settings: Mapping[str, Any]) -> Prepared:
        """Starts a sandbox with `settings`: limits, packages, and the size of its scratch folder."""
        read, links = visible(settings["packages"])
        python = [os.path.realpath(sys.executable), "-s", "-S", "-P", "-B", "-c", _START.format(root=str(_ROOT))]
        if self.bubblewrap:
            command = [*_bubblewrap(self.bubblewrap, read, links, settings["disk_bytes"]), *python]
            return Prepared(command, {**settings, "enclose": False}, ENVIRONMENT)
        return Prepared(python, {**settings, "enclose": True, "read": read, "links": links, **_users()}, ENVIRONMENT)


@cache
def find_means() -> Means:
    """Bubblewrap where it is installed and this is not root's process, else the kernel's namespaces.

    Whatever it says has run a program. Raises SandboxError that names what is missing where neither works.
    """
    missing = []
    if sys.platform != "linux":
        raise SandboxError(f"programs cannot be run in a sandbox here: it needs Linux, and this is {sys.platform}")
    if _linux_version() < OLDEST_LINUX:
        missing.append("Linux {}.{} or later, and this is {}".format(*OLDEST_LINUX, platform.release()))
    if platform.machine() not in AUDIT:
        missing.append(f"a processor of {' or '.join(AUDIT)}, and this is {platform.machine()}")
    if missing:
        raise SandboxError(f"programs cannot be run in a sandbox here: it needs {'; '.join(missing)}")
    bubblewrap = shutil.which("bwrap") if os.geteuid() != 0 else None
    for means in [Means(bubblewrap)] * bool(bubblewrap) + [Means()]:
        try:
            first = means.prepare(_PROBE)
            first.wait_ready()
            if not first.watched():
                first.close()
                missing.append(f"{means.name}: its processes cannot be seen in /proc (CONFIG_PROC_CHILDREN, hidepid)")
                continue
            done = first.run("print(6 * 7)", Bounds(10.0, 10.0, 4096, 1 << 30))
            if (done.stdout, done.exit_code) == ("42\n", 0):
                return means
            missing.append(f"{means.name}: a first program failed: {done.stderr.strip() or done}")
        except SandboxError as error:
            missing.append(f"{means.name}: {error}")
    raise SandboxError(f"programs cannot be run in a sandbox here: {'; '.join(missing)}; {_ADVICE}")


def visible(packages: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """What a program may read, by its path inside: the interpreter and libraries; and links beside them."""
    base = sys.base_prefix
    wanted = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", f"{base}/lib", f"{base}/lib64"]
    # The interpreter's own, not those of a virtual environment around it.
    own = {"base": base, "platbase": sys.base_exec_prefix, "installed_base": base}
    wanted += [sysconfig.get_path(name, vars=own) for name in ("stdlib", "platstdlib")]
    wanted.append(os.path.realpath(sys.executable))
    read: dict[str, str] = {}
    links: dict[str, str] = {}
    for path in [*wanted, *packages]:
        inside_another = any(f"{path}/".startswith(f"{other}/") for other in [*read, *links])
        if inside_another or not os.path.exists(path):
            continue
        if os.path.islink(path) and os.path.dirname(path) == "/":
            links[path] = os.readlink(path)
        else:
            read[path] = os.path.realpath(path)
    return read, links


def installed_packages() -> list[str]:
    """The folders of this interpreter's installed packages."""
    return list(dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib")))


def _users() -> dict[str, Any]:
    """Who a program is outside: this user, or nobody where this is root, whom limits on processes do not bind."""
    user, group = os.geteuid(), os.getegid()
    if user != 0:
        return {"users": f"{INSIDE_ID} {user} 1", "groups": f"{INSIDE_ID} {group} 1", "switch": False}
    both = f"0 0 1\n{INSIDE_ID} {NOBODY} 1"
    return {"users": both, "groups": both, "switch": True}


def _bubblewrap(program: str, read: Mapping[str, str], links: Mapping[str, str], disk_bytes: int) -> list[str]:
    command = [program, "--unshare-all", "--unshare-user", "--as-pid-1", "--new-session", "--hostname", HOST_NAME]
    command += ["--uid", str(INSIDE_ID), "--gid", str(INSIDE_ID)]
    for target, source in read.items():
        command += ["--ro-bind", source, target]
    for target, link in links.items():
        command += ["--symlink", link, target]
    own = _ROOT / "thinkrl"
    for part in (own / "__init__.py", own / "sandbox"):
        command += ["--ro-bind", str(part), str(part)]
    for device in ("null", "zero", "random", "urandom"):
        command += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    for folder in (SCRATCH, "/dev/shm"):
        command += ["--perms", "0700", "--size", str(disk_bytes), "--tmpfs", folder]
    if not any(path.startswith("/tmp/") for path in (*read, str(own))):
        command += ["--symlink", SCRATCH, "/tmp"]
    return [*command, "--remount-ro", "/", "--chdir", SCRATCH, "--"]


def _linux_version() -> tuple[int, int]:
    parts = platform.release().split(".")
    return int(parts[0]), int("".join(filter(str.isdigit, parts[1][:3])) or 0)
