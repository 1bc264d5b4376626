"""A PostgreSQL server of the lab, with one database that anybody may use."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.host import Host, Program
from lab.topology import Lab

PORT = 5432


def serve(lab: Lab, host: Host) -> Program:
    """Start a server on all addresses of a host; returns when it takes connections."""
    if not lab.is_multi_user:
        pytest.skip("PostgreSQL does not run as root")
    (programs,) = Path("/usr/lib/postgresql").glob("*/bin")  # one version is installed
    data = lab.service.home / "postgresql"
    make = ["--no-sync", "--auth=trust", "--username=postgres", str(data)]
    host.run([programs / "initdb", *make], user=lab.service, timeout=120)
    (data / "pg_hba.conf").write_text("host all all all trust\n")
    settings = {
        "listen_addresses": "*",
        "port": PORT,
        "unix_socket_directories": "",
        "fsync": "off",
        "lc_messages": "C",
    }
    words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    program = host.popen([programs / "postgres", "-D", data, *words], user=lab.service)
    program.says("ready to accept connections", timeout_s=60)
    return program
