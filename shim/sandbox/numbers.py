"""The numbers of the few system calls that the filter names, on each machine it can be made for.

A name is what libc is asked for. Where a machine has only a newer form of it, as aarch64 has, the
number is that of the call by which glibc does the same.

Source: asm/unistd_64.h, asm-generic/unistd.h; linux/audit.h for the architectures.
"""

from __future__ import annotations

from typing import Final

ARCHITECTURES: Final = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""For each machine of uname(2): the column below, and its AUDIT_ARCH."""

# fmt: off
NUMBERS: Final[dict[str, tuple[int, int | None]]] = {
    "accept4": (288, 242), "brk": (12, 214), "clock_gettime": (228, 113), "clone": (56, 220),
    "clone3": (435, 435), "close": (3, 57), "creat": (85, None), "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21), "epoll_wait": (232, 22), "exit_group": (231, 94), "fcntl": (72, 25),
    "fstat": (5, 80), "ftruncate": (77, 46), "futex": (202, 98), "getpeername": (52, 205),
    "getpid": (39, 172), "getppid": (110, 173), "getrandom": (318, 278), "getsockname": (51, 204),
    "getsockopt": (55, 209), "gettid": (186, 178), "ioctl": (16, 29), "lseek": (8, 62),
    "mmap": (9, 222), "mremap": (25, 216), "munmap": (11, 215), "newfstatat": (262, 79),
    "open": (2, None), "openat": (257, 56), "openat2": (437, 437), "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424), "poll": (7, 73), "prctl": (157, 167), "pread64": (17, 67),
    "pwrite64": (18, 68), "readv": (19, 65), "recvfrom": (45, 207), "recvmsg": (47, 212),
    "restart_syscall": (219, 128), "rmdir": (84, 35), "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sendmsg": (46, 211), "sendto": (44, 206), "set_robust_list": (273, 99),
    "setsockopt": (54, 208), "socket": (41, 198), "unlinkat": (263, 35), "wait4": (61, 260),
    "write": (1, 64),
}
# fmt: on
