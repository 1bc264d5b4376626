"""The shim as a service on the app, started as systemd starts it from its socket unit.

As a program, `activation.py SOCKET UID PROGRAM…` does what systemd does with a socket unit and
its service. It listens, and opens two netlink sockets in the network of the machine, as root
(systemd.socket(5), ListenNetlink=). When somebody connects, or one of those has something to read,
the program is started, in an empty network namespace of its own (systemd.exec(5),
PrivateNetwork=), with all three (sd_listen_fds(3)). When it has ended it is waited for again, and
after a crash it is started at once (systemd.service(5), Restart=on-failure). The service is root,
or a user who owns the directory of the socket and has CAP_NET_ADMIN.

Its namespace checks the reverse path strictly, as a machine may have it, whose settings it would
inherit (ip-sysctl.txt, rp_filter, devconf_inherit_init_net).
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from lab.host import CLONE_NEWNET, Program
from lab.topology import Lab

SOCKET = "/run/overlay-vpn/shim.sock"
POLICY = "/etc/overlay-vpn/shim.toml"
MONITOR = (sys.executable, "-I", "-B", "-m", "shim.launcher")
SERVICE_UID = 61101

_NETLINK_NETFILTER = 12
_CLEAN = (0, -signal.SIGHUP, -signal.SIGINT, -signal.SIGTERM, -signal.SIGPIPE)
"""What is no failure (systemd.service(5), SuccessExitStatus=)."""
_EX_CONFIG = 78  # the RestartPreventExitStatus= of the unit
_NETWORK = """
proc=/proc
[ -e $proc/sys ] || { mount -t proc none /mnt; proc=/mnt; }
for name in all default; do echo 1 >$proc/sys/net/ipv4/conf/$name/rp_filter; done
ip link set lo up
"""
_libc = ctypes.CDLL(None, use_errno=True)


def serve(
    lab: Lab, uid: int = 0, wrapper: Sequence[str] = (), limits: Sequence[str] = ()
) -> Program:
    """Start the service on the app, and its program within `limits`; it ends with the lab."""
    argv = [*wrapper, sys.executable, __file__, SOCKET, str(uid), *limits, *MONITOR]
    program = lab.app.popen(argv, env={"PYTHONPATH": str(Path(__file__).parents[1])})
    program.says("^listening$")
    return program


def write_policy(lab: Lab, **settings: object) -> Path:
    """Write the policy of the app, as root would."""
    path = lab.app.path(POLICY)
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))
    path.chmod(0o644)
    return path


def _main(path: str, uid: int, program: list[str]) -> None:
    Path(path).parent.mkdir()
    os.chown(Path(path).parent, uid, uid)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        os.chmod(path, 0o666)
        listener.listen()
        sockets = [listener, _netlink(socket.NETLINK_ROUTE), _netlink(_NETLINK_NETFILTER)]
        signal.signal(signal.SIGTERM, lambda *_: _end(path))
        print("listening", flush=True)
        if uid:
            ids, caps = f"--reuid={uid} --regid={uid} --clear-groups", "+net_admin"
            limits = f"--inh-caps={caps} --ambient-caps={caps} --bounding-set=-all,{caps}"
            program = ["setpriv", *ids.split(), *limits.split(), "--no-new-privs", *program]
        status = 0
        while True:
            if status in (*_CLEAN, _EX_CONFIG):
                select.select(sockets, [], [])
            pid = _start(sockets, program)
            print(f"started {pid}", flush=True)
            signal.signal(signal.SIGTERM, lambda *_, pid=pid: _end(path, pid))
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            _end_group(pid)
            print(f"ended {status}", flush=True)
            signal.signal(signal.SIGTERM, lambda *_: _end(path))


def _netlink(protocol: int) -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
    sock.bind((0, 0))
    return sock


def _end(path: str, pid: int = 0) -> NoReturn:
    if pid:
        with suppress(ProcessLookupError, ChildProcessError):  # it has just ended by itself
            _end_group(pid)
            os.waitpid(pid, 0)
    os.unlink(path)
    os.rmdir(os.path.dirname(path))
    sys.exit(0)


def _end_group(pid: int) -> None:
    """Tell all of a service to end, whose leader is `pid` (systemd.kill(5), KillMode=)."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGTERM)


def _start(sockets: list[socket.socket], program: list[str]) -> int:
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.umask(0o077)
        _leave_network()
        for number, sock in enumerate(sockets, 3):
            os.dup2(sock.fileno(), number)
            os.set_inheritable(number, True)  # it may have had this number before
        words = {"LISTEN_FDS": str(len(sockets)), "LISTEN_PID": str(os.getpid())}
        os.execvpe(program[0], program, {**os.environ, **words})
    return pid


def _leave_network() -> None:
    if _libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "no network for the service")
    subprocess.run(["unshare", "--mount", "sh", "-euc", _NETWORK], check=True)


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
