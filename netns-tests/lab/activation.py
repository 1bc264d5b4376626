"""The shim as a service on the app, started as systemd starts it from a socket (sd_listen_fds(3)).

As a program, `activation.py SOCKET UID PROGRAM…` does what systemd does with a socket unit and
its service: it listens, starts the program when somebody connects, waits until it has ended, and
so on. The service is root, or a user who owns the directory of the socket and has CAP_NET_ADMIN.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from lab.host import Program
from lab.topology import Lab

SOCKET = "/run/overlay-vpn/shim.sock"
POLICY = "/etc/overlay-vpn/shim.toml"
MONITOR = (sys.executable, "-I", "-B", "-m", "shim.warden")
SERVICE_UID = 61101


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
        signal.signal(signal.SIGTERM, lambda *_: _end(path))
        print("listening", flush=True)
        if uid:
            ids, caps = f"--reuid={uid} --regid={uid} --clear-groups", "+net_admin"
            limits = f"--inh-caps={caps} --ambient-caps={caps} --bounding-set=-all,{caps}"
            program = ["setpriv", *ids.split(), *limits.split(), "--no-new-privs", *program]
        while True:
            select.select([listener], [], [])
            pid = _start(listener, program)
            signal.signal(signal.SIGTERM, lambda *_, pid=pid: _end(path, pid))
            print(f"ended {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}", flush=True)
            signal.signal(signal.SIGTERM, lambda *_: _end(path))


def _end(path: str, pid: int = 0) -> None:
    if pid:
        with suppress(ProcessLookupError, ChildProcessError):  # it has just ended by itself
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)
    os.unlink(path)
    os.rmdir(os.path.dirname(path))
    sys.exit(0)


def _start(listener: socket.socket, program: list[str]) -> int:
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.umask(0o077)
        os.dup2(listener.fileno(), 3)
        os.set_inheritable(3, True)  # it may have had this number before
        words = {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
        os.execvpe(program[0], program, {**os.environ, **words})
    return pid


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
