"""The process that makes a sandbox around itself, and then runs what is inside. Standard library only."""

import json
import os
from collections.abc import Mapping
from typing import Any

from thinkrl.sandbox import kernel
from thinkrl.sandbox.inside import SCRATCH, give_up_rights, serve

INSIDE_ID = 1000
"""The user and group that a program sees itself as."""
HOST_NAME = "sandbox"
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_BASE, _OLD = "/tmp", "/old"
_READ = kernel.READ_ONLY | kernel.NO_SETUID | kernel.NO_DEVICES
_WRITE = kernel.NO_SETUID | kernel.NO_DEVICES | kernel.NO_EXECUTION


def main(text: str) -> int:
    """Runs a sandbox with settings as JSON; the exit code. What keeps it from starting is written to `status`."""
    settings = json.loads(text)
    control, status = settings["control"], settings["status"]
    os.umask(0o022)
    try:
        if settings["enclose"]:
            _enter(settings)
        else:
            give_up_rights()
    except OSError as error:
        os.write(status, f"failed {error.strerror or error}\n".encode())
        return 1
    return serve(settings, control, status)


def _enter(settings: Mapping[str, Any]) -> None:
    """Returns in the first process of a new sandbox; this process waits for that one, and ends with it."""
    _become_user(settings["users"], settings["groups"])
    _build_root(settings)
    kernel.set_host_name(HOST_NAME)
    if settings["switch"]:
        os.setgroups([])
    os.setresgid(INSIDE_ID, INSIDE_ID, INSIDE_ID)
    os.setresuid(INSIDE_ID, INSIDE_ID, INSIDE_ID)
    give_up_rights()
    first = os.fork()
    if first:
        for descriptor in (1, 2, settings["control"], settings["status"]):
            os.close(descriptor)
        os.waitpid(first, 0)
        os._exit(0)


def _become_user(users: str, groups: str) -> None:
    """New namespaces; a child that stays outside writes which users there are, as only it may."""
    (asked, ask), (answered, answer) = os.pipe(), os.pipe()
    inside = os.getpid()
    helper = os.fork()
    if helper == 0:
        os.close(ask)
        os.close(answered)
        try:
            if os.read(asked, 1):
                for name, text in (("setgroups", "deny"), ("uid_map", users), ("gid_map", groups)):
                    if name == "setgroups" and "\n" in users:
                        continue
                    with open(f"/proc/{inside}/{name}", "w") as file:
                        file.write(text)
                os.write(answer, b"ok")
        except OSError as error:
            os.write(answer, f"{error.filename or 'the map of users'}: {error.strerror}".encode())
        finally:
            os._exit(0)
    try:
        kernel.new_namespaces()
        os.write(ask, b"!")
        os.close(answer)
        reply = os.read(answered, 4096)
    finally:
        os.close(ask)
        os.waitpid(helper, 0)
    if reply != b"ok":
        raise OSError(1, reply.decode() or "the map of users was not written")


def _build_root(settings: Mapping[str, Any]) -> None:
    """A root of nothing but the interpreter, libraries, four devices and a scratch folder in memory."""
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    size = f"size={settings['disk_bytes']},nr_inodes={settings['disk_files']},mode=0755"
    kernel.mount("sandbox", _BASE, "tmpfs", kernel.NO_SETUID | kernel.NO_DEVICES, size)
    os.mkdir(_BASE + _OLD)
    kernel.change_root(_BASE, _BASE + _OLD)
    os.chdir("/")
    for target, source in settings["read"].items():
        _bind(source, target, _READ)
    for target, link in settings["links"].items():
        os.symlink(link, target)
    for device in _DEVICES:
        _bind(device, device, kernel.NO_SETUID | kernel.NO_EXECUTION)
    for folder in (SCRATCH, "/dev/shm"):
        os.makedirs(folder, mode=0o700)
        os.chown(folder, INSIDE_ID, INSIDE_ID)
        kernel.mount(folder, folder, flags=kernel.MS_BIND)
        kernel.set_attributes(folder, _WRITE)
    if not os.path.isdir("/tmp"):  # it is there where an interpreter or packages lie below it
        os.symlink(SCRATCH, "/tmp")
    os.makedirs("/etc", exist_ok=True)
    with open("/etc/passwd", "w") as file:
        file.write(f"{HOST_NAME}:x:{INSIDE_ID}:{INSIDE_ID}::{SCRATCH}:\n")
    kernel.detach(_OLD)
    os.rmdir(_OLD)
    kernel.set_attributes("/", kernel.READ_ONLY | _WRITE)
    os.chdir(SCRATCH)


def _bind(source: str, target: str, attributes: int) -> None:
    """Shows `source` of the old root as `target`."""
    if os.path.isdir(_OLD + source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "x"):
            pass
    kernel.mount(_OLD + source, target, flags=kernel.MS_BIND | kernel.MS_REC)
    kernel.set_attributes(target, attributes, recursive=True)
