"""Which system calls a sandboxed program may not make, as a seccomp filter. Standard library only."""

from collections.abc import Mapping

from thinkrl.sandbox.kernel import NEW_NAMESPACES

AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""How the kernel names the architectures whose call numbers are known here."""
DENIED: Mapping[str, tuple[int | None, int | None]] = {
    # Other processes.
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440),
    # Namespaces and mounts.
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264), "quotactl": (179, 60),
    "quotactl_fd": (443, 443), "fanotify_init": (300, 262),
    # Memory that belongs to no process, which limits of processes do not see.
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "msgget": (68, 186),
    "semget": (64, 190), "mq_open": (240, 180), "mlock": (149, 228), "mlock2": (325, 284), "mlockall": (151, 230),
    # Clocks and the machine as a whole.
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266),
    "reboot": (169, 142), "sethostname": (170, 161), "setdomainname": (171, 162), "syslog": (103, 116),
    "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "vhangup": (153, 58), "personality": (135, 92),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "ioperm": (173, None), "iopl": (172, None), "modify_ldt": (154, None),
    "uselib": (134, None),
    # Large parts of the kernel that a calculation does not need.
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218),
}  # fmt: skip
"""Call numbers on x86_64 and aarch64; the call fails with EPERM."""
SOCKET, CLONE, CLONE3 = (41, 198), (56, 220), (435, 435)
EPERM, ENOSYS = 1, 38
_AF_UNIX = 1
_X32 = 0x40000000

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16

Instruction = tuple[int, int, int, int]


def filter_program(machine: str) -> list[Instruction]:
    """The filter for `machine`: classic BPF instructions (code, jump if true, jump if false, value).

    Denied calls fail with EPERM, sockets of any family but AF_UNIX too (a network namespace does not hold AF_VSOCK),
    and so does `clone` that asks for a namespace. `clone3` fails with ENOSYS, whereupon libraries use `clone`. Calls
    of another architecture end the program. Raises ValueError for a machine whose call numbers are not known.
    """
    if machine not in AUDIT:
        raise ValueError(f"machine must be one of {list(AUDIT)}, got {machine!r}")
    column = list(AUDIT).index(machine)
    refuse = (RETURN, 0, 0, ERRNO | EPERM)
    program: list[Instruction] = [
        (LOAD, 0, 0, _ARCHITECTURE),
        (EQUAL, 1, 0, AUDIT[machine]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        program += [(AT_LEAST, 0, 1, _X32), refuse]
    for numbers in DENIED.values():
        number = numbers[column]
        if number is not None:
            program += [(EQUAL, 0, 1, number), refuse]
    program += [(EQUAL, 0, 1, CLONE3[column]), (RETURN, 0, 0, ERRNO | ENOSYS)]
    program += [(EQUAL, 0, 3, SOCKET[column]), (LOAD, 0, 0, _FIRST_ARGUMENT), (EQUAL, 4, 0, _AF_UNIX), refuse]
    program += [(EQUAL, 0, 2, CLONE[column]), (LOAD, 0, 0, _FIRST_ARGUMENT), (ANY_BIT, 1, 0, NEW_NAMESPACES)]
    return [*program, (RETURN, 0, 0, ALLOW), refuse]
