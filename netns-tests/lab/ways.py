"""The ways of an application's traffic: `up` or `run`, over our server or over a stock sshd."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from lab import services
from lab.addresses import TARGET
from lab.host import Host, Program
from lab.overlay import PROGRAM, Endpoint, Overlay
from lab.topology import Lab

WAYS = ("up ours", "run ours", "up sshd", "run sshd")


@dataclass(frozen=True)
class Way:
    """A tunnel that is there. Applications that use it are started and called on `app`.

    `names` is what answers at the far end.
    """

    lab: Lab
    overlay: Overlay
    endpoint: Endpoint
    app: Host
    names: Program
    is_run: bool
    is_ours: bool


@contextmanager
def open_way(name: str, lab: Lab, zone: str, options: Sequence[str] = ()) -> Iterator[Way]:
    """Open a way of `WAYS`, with more options of `up` or `run`.

    The target serves `zone`, for the far end and for who asks it.
    """
    verb, server = name.split()
    overlay = Overlay(lab)
    names = services.names(lab.target, zone)
    is_ours = server == "ours"
    endpoint = overlay.serve() if is_ours else overlay.serve_ssh()
    asked = (*options, *(() if is_ours else ("--dns-server", TARGET.v4)))
    if verb == "up":
        overlay.up(endpoint, *asked)
        yield Way(lab, overlay, endpoint, lab.app, names, is_run=False, is_ours=is_ours)
        overlay.down()
        return
    runtime = lab.tmp / "runtime"
    runtime.mkdir(mode=0o700)
    os.chown(runtime, lab.alice.uid, lab.alice.gid)
    words = (*endpoint.pin, "-i", overlay.identity, *asked)
    program = lab.app.popen(
        [PROGRAM, "run", endpoint.target, *words, "--", "sh", "-c", "echo pid $$; exec sleep 9999"],
        user=lab.alice,
        env={"XDG_RUNTIME_DIR": str(runtime)},
    )
    inside = lab.app.inside(int(program.says(r"^pid (\d+)$", timeout_s=30)[1]))
    yield Way(lab, overlay, endpoint, inside, names, is_run=True, is_ours=is_ours)
    program.stop()
