"""The filter, run by an interpreter of classic BPF (the Linux manual's seccomp(2) and McCanne and Jacobson 1993)."""

import struct

import pytest

from thinkrl.sandbox.system_calls import (
    ALLOW,
    AUDIT,
    CLONE,
    CLONE3,
    DENIED,
    ENOSYS,
    EPERM,
    ERRNO,
    KILL,
    SOCKET,
    filter_program,
)

MACHINES = [(machine, column) for column, machine in enumerate(AUDIT)]


def decide(machine: str, number: int, argument: int = 0, architecture: int | None = None) -> int:
    data = struct.pack(
        "<IIQ6Q", number, AUDIT[machine] if architecture is None else architecture, 0, argument, *[0] * 5
    )
    program, at, value = filter_program(machine), 0, 0
    while True:
        code, yes, no, k = program[at]
        at += 1
        if code == 0x20:
            value = struct.unpack_from("<I", data, k)[0]
        elif code == 0x06:
            return k
        else:
            holds = {0x15: value == k, 0x35: value >= k, 0x45: bool(value & k)}[code]
            at += yes if holds else no


@pytest.mark.parametrize(("machine", "column"), MACHINES)
def test_what_is_denied_and_what_is_not(machine: str, column: int) -> None:
    denied = {numbers[column] for numbers in DENIED.values() if numbers[column] is not None}
    other = {SOCKET[column], CLONE[column], CLONE3[column]}
    for number in range(500):
        if number not in other:
            assert decide(machine, number) == (ERRNO | EPERM if number in denied else ALLOW), number
    assert decide(machine, CLONE3[column]) == ERRNO | ENOSYS


@pytest.mark.parametrize(("machine", "column"), MACHINES)
def test_sockets_and_clones_by_their_first_argument(machine: str, column: int) -> None:
    for family in range(50):
        assert decide(machine, SOCKET[column], family) == (ALLOW if family == 1 else ERRNO | EPERM)
    fork, thread = 0x01200011, 0x003D0F00  # what glibc asks for
    assert decide(machine, CLONE[column], fork) == ALLOW
    assert decide(machine, CLONE[column], thread) == ALLOW
    for namespace in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert decide(machine, CLONE[column], fork | namespace) == ERRNO | EPERM


def test_calls_of_other_architectures() -> None:
    assert decide("x86_64", 39, architecture=0x40000003) == KILL
    assert decide("aarch64", 172, architecture=AUDIT["x86_64"]) == KILL
    assert decide("x86_64", 0x40000000 | 39) == ERRNO | EPERM
    with pytest.raises(ValueError, match="riscv64"):
        filter_program("riscv64")


def test_no_number_stands_twice() -> None:
    for column in range(2):
        numbers = [pair[column] for pair in DENIED.values() if pair[column] is not None]
        assert len(set(numbers)) == len(numbers)
