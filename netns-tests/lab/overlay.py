"""Drives the real command line of overlay-vpn in a lab.

The server runs as `service` on the server, the client on the app as `sudo overlay-vpn up` by
`alice` would: root, with SUDO_UID and its kin in the environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import services
from lab.addresses import SERVER
from lab.capture import Flow
from lab.host import Host, Program
from lab.topology import Lab
from vpn import identity

PROGRAM = str(Path(sys.executable).with_name("overlay-vpn"))
PORT = 4422


@dataclass(frozen=True)
class Endpoint:
    """A server to give to `up`: TARGET, the options that pin its key, its flow on the wire."""

    program: Program
    target: str
    pin: tuple[str, ...]
    flow: Flow


class Overlay:
    """One client and its servers. `identity` is alice's private key; the server accepts it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.identity = services.client_key(lab, lab.alice)
        self.server_key = lab.service.home / "identity"
        self.authorized_keys = lab.service.home / "authorized_keys"
        self.authorized_keys.write_text(self.identity.with_suffix(".pub").read_text())
        self.is_up = False

    def serve(self, *options: str, address: str = SERVER.v4, port: int = PORT) -> Endpoint:
        """Start our server, with a new key the first time; returns when it says how to reach it."""
        service = self.lab.service
        if not self.server_key.exists():
            identity.generate(self.server_key)
            os.chown(self.server_key, service.uid, service.gid)
        listen = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        keys = ("--key", str(self.server_key), "--authorized-keys", str(self.authorized_keys))
        argv = (PROGRAM, "server", *keys, "--listen", listen, *options)
        program = self.lab.server.popen(argv, user=service)
        said = program.says(r"overlay-vpn up (?P<target>\S+) --host-key (?P<pin>SHA256:[\w+/=]+)")
        pin = ("--host-key", said["pin"])
        return Endpoint(program, said["target"], pin, Flow("udp", address, port))

    def serve_ssh(self, *, address: str = SERVER.v4, port: int = 22) -> Endpoint:
        """Start a stock sshd, whose key alice's known_hosts has: nothing of ours runs there."""
        server = services.sshd(self.lab, self.lab.server, port)
        host = f"[{address}]" if ":" in address else address
        target = f"ssh://{self.lab.alice.name}@{host}:{port}"
        return Endpoint(server.program, target, (), Flow("tcp", address, port))

    def up(
        self, endpoint: Endpoint, *options: str, check: bool = True, timeout: float = 30.0
    ) -> subprocess.CompletedProcess[str]:
        """Run `up` with the identity and the pin of the endpoint; returns when it is usable."""
        self.is_up = True
        arguments = self.up_command(endpoint, *options)[1:]
        return self.cli(*arguments, check=check, timeout=timeout)

    def start(self, endpoint: Endpoint, *options: str) -> Program:
        """Start `up --foreground` and wait until it is up."""
        self.is_up = True
        argv = self.up_command(endpoint, *options, "--foreground")
        program = self.lab.app.popen(argv, env=self.sudo)
        program.says("^connected$", timeout_s=30)
        return program

    def up_command(self, endpoint: Endpoint, *options: str) -> tuple[str, ...]:
        """Return the words of `up` with the identity and the pin of the endpoint."""
        return (PROGRAM, "up", endpoint.target, *endpoint.pin, "-i", str(self.identity), *options)

    def down(self) -> None:
        """Run `down`. Raises CommandFailedError."""
        self.cli("down")
        self.is_up = False

    def recover(self) -> None:
        """Run `recover`. Raises CommandFailedError."""
        self.cli("recover")
        self.is_up = False

    def status(self) -> Mapping[str, Any]:
        """Return what `status --json` says."""
        found: Mapping[str, Any] = json.loads(self.cli("status", "--json", check=False).stdout)
        return found

    def cli(
        self, *args: str, host: Host | None = None, check: bool = True, timeout: float = 30.0
    ) -> subprocess.CompletedProcess[str]:
        """Run any verb on the app (or another host) as sudo by alice would."""
        where = host or self.lab.app
        return where.run([PROGRAM, *args], env=self.sudo, check=check, timeout=timeout)

    @property
    def sudo(self) -> Mapping[str, str]:
        """The variables that sudo sets (sudo(8)); none where alice is root herself."""
        alice = self.lab.alice
        if alice.uid == 0:
            return {}
        return {"SUDO_USER": alice.name, "SUDO_UID": str(alice.uid), "SUDO_GID": str(alice.gid)}
