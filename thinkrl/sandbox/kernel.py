"""The system calls of a sandbox that Python 3.11 has no function for. Standard library only: it runs inside one."""

import ctypes
import os
import platform
from collections.abc import Sequence

NEW_NAMESPACES = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
"""CLONE_NEW: mounts, cgroups, host name, System V memory, users, processes, network."""
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
READ_ONLY, NO_SETUID, NO_DEVICES, NO_EXECUTION = 1, 2, 4, 8
"""Attributes of `mount_setattr`."""
_AT_RECURSIVE = 0x8000
_DETACH = 2
_SET_DUMPABLE, _SET_SECCOMP, _SET_NO_NEW_PRIVS, _FILTER_MODE = 4, 22, 38, 2
_MOUNT_SETATTR = 442
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_CAPABILITY_VERSION = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))


def new_namespaces() -> None:
    """Gives this process, and the next one it forks, namespaces of their own. Raises OSError."""
    _check(_libc.unshare(ctypes.c_int(NEW_NAMESPACES)), "unshare")


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2). Raises OSError that names the target."""
    result = _libc.mount(
        source.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), options.encode() or None
    )
    _check(result, f"mount of {target}")


def set_attributes(target: str, attributes: int, recursive: bool = False) -> None:
    """Adds `attributes` to the mount at `target` (mount_setattr, Linux 5.12). Raises OSError."""
    values = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    result = _libc.syscall(
        ctypes.c_long(_MOUNT_SETATTR),
        ctypes.c_int(-100),
        os.fsencode(target),
        ctypes.c_uint(_AT_RECURSIVE if recursive else 0),
        ctypes.byref(values),
        ctypes.c_size_t(ctypes.sizeof(values)),
    )
    _check(result, f"mount_setattr of {target}")


def change_root(new: str, old: str) -> None:
    """pivot_root(2). Raises OSError."""
    call = ctypes.c_long(_PIVOT_ROOT[platform.machine()])
    _check(_libc.syscall(call, os.fsencode(new), os.fsencode(old)), "pivot_root")


def detach(target: str) -> None:
    """Takes the mounts at and below `target` out of sight. Raises OSError."""
    _check(_libc.umount2(os.fsencode(target), _DETACH), f"umount of {target}")


def set_host_name(name: str) -> None:
    """Names the machine within its namespace. Raises OSError."""
    _check(_libc.sethostname(name.encode(), ctypes.c_size_t(len(name))), "sethostname")


def drop_capabilities() -> None:
    """Gives up every capability, for good: no program that is started can gain any. Raises OSError."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    _check(_libc.capset(ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)())), "capset")
    _control(_SET_NO_NEW_PRIVS, 1)


def hide_memory() -> None:
    """Makes this process one that others of the same user cannot look into, and that leaves no core file."""
    _control(_SET_DUMPABLE, 0)


def install_filter(instructions: Sequence[tuple[int, int, int, int]]) -> None:
    """Puts a seccomp filter (code, jump if true, jump if false, value) over this process. Raises OSError."""
    array = (_Instruction * len(instructions))(*(_Instruction(*one) for one in instructions))
    program = _Program(len(instructions), array)
    _control(_SET_SECCOMP, _FILTER_MODE, ctypes.addressof(program))


def _control(option: int, *values: int) -> None:
    padded = [*values, 0, 0, 0, 0][:4]
    _check(_libc.prctl(ctypes.c_int(option), *map(ctypes.c_ulong, padded)), f"prctl {option}")


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
