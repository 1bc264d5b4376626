"""The filter under a model of the kernel's machine: what it lets through, and nothing else."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.sandbox.numbers import ARCHITECTURES, NUMBERS
from shim.sandbox.seccomp import ALLOW, BY_PATH, ERRNO, KILL_PROCESS, Instruction, program

from .headers import numbers
from .machine import AARCH64, X86_64, run
from .roles import ROLES

X32 = 0x40000000
I386 = 0x40000003
OF = {"x86_64": X86_64, "aarch64": AARCH64}
GOOD_ARGUMENTS = {
    "clone": [0x01200011],
    "fcntl": [0, 1030],
    "ioctl": [0, 0x5421],
    "mmap": [0, 0, 0x3],
    "prctl": [22],
    "socket": [2],
}
"""With which the calls are allowed that are allowed with some arguments only."""

FORBIDDEN = (
    *("execve", "execveat", "ptrace", "process_vm_readv", "process_vm_writev", "mount", "umount2"),
    *("unshare", "setns", "bpf", "io_uring_setup", "keyctl", "add_key", "kexec_load", "reboot"),
    *("init_module", "finit_module", "memfd_create", "userfaultfd", "perf_event_open", "kill"),
    *("tgkill", "pidfd_getfd", "socketpair", "bind", "connect", "listen", "chroot", "pivot_root"),
    *("open_tree", "move_mount", "fsopen", "setuid", "setresuid", "capset", "mprotect", "seccomp"),
    *("personality", "open_by_handle_at", "name_to_handle_at", "syslog", "swapon", "acct", "statx"),
)


@pytest.fixture(params=sorted(ARCHITECTURES))
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=sorted(ROLES))
def role(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def filters(role: str, machine: str) -> list[Instruction]:
    return program(ROLES[role], machine)


def verdict(role: str, machine: str, number: int, *arguments: int) -> int:
    return run(filters(role, machine), OF[machine], number, arguments)


def test_numbers_are_those_of_the_headers(machine: str) -> None:
    column, _ = ARCHITECTURES[machine]
    known = numbers(machine)
    # What glibc calls where the machine has not got the call itself.
    instead = {"epoll_wait": "epoll_pwait", "poll": "ppoll", "rmdir": "unlinkat"}
    for name, pair in NUMBERS.items():
        number = pair[column]
        if number is None:
            assert name not in known
        else:
            assert number == known.get(name, known.get(instead.get(name, "")))


def test_every_declared_call_is_allowed(role: str, machine: str) -> None:
    column, _ = ARCHITECTURES[machine]
    for name in ROLES[role]:
        number = NUMBERS[name][column]
        assert number is not None
        assert verdict(role, machine, number, *GOOD_ARGUMENTS.get(name, [])) == ALLOW, name


def test_forbidden_call_ends_the_process(role: str, machine: str) -> None:
    known = numbers(machine)
    for name in FORBIDDEN:
        assert verdict(role, machine, known[name]) == KILL_PROCESS, name


def test_fork_is_the_supervisors_alone(role: str, machine: str) -> None:
    known = numbers(machine)
    expected = ALLOW if role == "supervisor" else KILL_PROCESS
    assert verdict(role, machine, known["clone"], *GOOD_ARGUMENTS["clone"]) == expected
    for name in {"fork", "vfork"} & {*known}:
        assert verdict(role, machine, known[name]) == KILL_PROCESS


@pytest.mark.parametrize("name", sorted(BY_PATH))
def test_reaching_a_file_by_its_path_fails(role: str, machine: str, name: str) -> None:
    number = NUMBERS[name][ARCHITECTURES[machine][0]]
    if number is not None:
        assert verdict(role, machine, number) == ERRNO | errno.EACCES


def test_clone3_is_said_not_to_be_there(role: str, machine: str) -> None:
    assert verdict(role, machine, 435) == ERRNO | errno.ENOSYS


def test_memory_becomes_no_code(role: str, machine: str) -> None:
    number = NUMBERS["mmap"][ARCHITECTURES[machine][0]]
    assert number is not None
    for protection in range(8):
        expected = KILL_PROCESS if protection & 0x4 else ALLOW
        assert verdict(role, machine, number, 0, 4096, protection) == expected
        assert verdict(role, machine, number, 0, 4096, protection | 1 << 32) == expected


def test_socket_is_tcp_or_udp_and_not_for_the_gate(role: str, machine: str) -> None:
    number = NUMBERS["socket"][ARCHITECTURES[machine][0]]
    assert number is not None
    for family in range(64):
        is_allowed = family in (2, 10) and role == "namespace"
        assert verdict(role, machine, number, family) == (ALLOW if is_allowed else KILL_PROCESS)


@given(flags=st.integers(0, 2**64 - 1))
def test_clone_makes_processes_and_nothing_else(flags: int) -> None:
    expected = ALLOW if flags & 0xFFFFFFFF == 0x01200011 else KILL_PROCESS
    assert verdict("supervisor", "x86_64", 56, flags) == expected


@given(number=st.integers(0, 2**32 - 1), architecture=st.integers(0, 2**32 - 1))
def test_another_architecture_ends_the_process(number: int, architecture: int) -> None:
    filtered = filters("monitor", "x86_64")
    if architecture != X86_64:
        assert run(filtered, architecture, number) == KILL_PROCESS


def test_i386_and_aarch64_numbers_mean_nothing_on_x86_64() -> None:
    filtered = filters("gate", "x86_64")
    for number in range(1024):
        assert run(filtered, I386, number) == KILL_PROCESS
        assert run(filtered, AARCH64, number) == KILL_PROCESS


@given(number=st.integers(0, 2**30 - 1))
def test_x32_ends_the_process(number: int) -> None:
    for role in ROLES:
        assert verdict(role, "x86_64", X32 | number) == KILL_PROCESS


@given(
    number=st.integers(0, 600) | st.integers(0, 2**32 - 1),
    arguments=st.lists(st.integers(0, 2**64 - 1), min_size=6, max_size=6),
)
def test_verdict_is_what_the_declarations_say(number: int, arguments: list[int]) -> None:
    names = {pair[0]: name for name, pair in NUMBERS.items()}
    for role, allowed in ROLES.items():
        name = names.get(number)
        found = verdict(role, "x86_64", number, *arguments)
        if name in allowed:
            assert found in ((ALLOW, KILL_PROCESS) if name in GOOD_ARGUMENTS else (ALLOW,))
        elif name in BY_PATH:
            assert found == ERRNO | errno.EACCES
        else:
            assert found == (ERRNO | errno.ENOSYS if name == "clone3" else KILL_PROCESS)


def test_calls_of_the_data_path_come_first(machine: str) -> None:
    column, _ = ARCHITECTURES[machine]
    gate = filters("gate", machine)
    order = [operand for code, _, _, operand in gate if code == 0x15][1:8]
    hot = ("readv", "write", "epoll_wait", "recvmsg", "sendmsg", "sendto", "recvfrom")
    assert {*order} == {NUMBERS[name][column] for name in hot}


def test_unknown_name_or_machine_is_an_error() -> None:
    with pytest.raises(KeyError):
        program({"frobnicate"}, "x86_64")
    with pytest.raises(KeyError):
        program({"write"}, "vax")
