"""A message bus in a host of the lab, and programs on it that stand for services of the system."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from lab.host import Host, Program
from lab.wait import until

ADDRESS = "/run/dbus/system_bus_socket"
RESOLVED = "org.freedesktop.resolve1"
NETWORK_MANAGER = "org.freedesktop.NetworkManager"

_CONFIGURATION = f"""
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={ADDRESS}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_type="method_call"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
  </policy>
</busconfig>
"""


def start(host: Host) -> Program:
    """Start the system's message bus of a host."""
    host.run(["mkdir", "-p", "/run/dbus"])
    host.path("/run/dbus/lab.conf").write_text(_CONFIGURATION.lstrip())
    argv = ["dbus-daemon", "--nofork", "--nopidfile", "--config-file=/run/dbus/lab.conf"]
    program = host.popen(argv)
    until(lambda: host.path(ADDRESS).exists(), 30, "the message bus")
    return program


def stop(host: Host) -> None:
    """End all programs of a host, and remove what the bus has left."""
    host.stop_programs()
    host.run(["rm", "-rf", "/run/dbus"])


class Service:
    """A program of `standin.py` with the name of a service."""

    def __init__(self, host: Host, name: str, behaviour: str = "obey") -> None:
        env = {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={ADDRESS}"}
        program = Path(__file__).with_name("standin.py")
        self.program = host.popen([sys.executable, program, name, behaviour], env=env)
        self.program.says("^ready$")

    def calls(self) -> list[tuple[str, list[Any]]]:
        """Return what it was asked so far: methods and their arguments."""
        lines = self.program.stdout.splitlines()
        return [
            (json.loads(line)[0], json.loads(line)[1]) for line in lines if line.startswith("[")
        ]
