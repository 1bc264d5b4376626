"""What a host looks like, so that a test can prove that it has left nothing.

A state is a set of lines per section; the difference of two names each line that came or went.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from lab.host import Host

State = Mapping[str, frozenset[str]]

# Of the settings per link only those that a tunnel is tempted to change; sysctl(8) is too slow.
_PER_LINK = "rp_filter forwarding src_valid_mark accept_local route_localnet accept_ra disable_ipv6"
_SYSCTLS = " ".join(["ipv[46]/*", *(f"ipv[46]/conf/*/{name}" for name in _PER_LINK.split())])
_COMMANDS = {
    "link": "ip -o link show",
    "address": "ip -o address show",
    "route": "ip -4 route show table all; ip -6 route show table all",
    "rule": "ip -4 rule show | sed 's/^/v4 /'; ip -6 rule show | sed 's/^/v6 /'",
    "queue": "tc qdisc show",
    "nft": "nft --stateless list ruleset",
    # Sockets that only the kernel still knows (TIME-WAIT, FIN-WAIT-2 …) are nobody's leftovers.
    "socket": "ss -Hntuwlx; ss -Hntu state established",
    "sysctl": f"cd /proc/sys/net; grep -s '' {_SYSCTLS}",
}
_TREES = ("/run", "/var/lib", "/dev/net")
_SHOWN_BYTES = 400


def snapshot(host: Host) -> State:
    """Return the state of a host: links, routes, rules, nft, sockets, processes, files."""
    script = "".join(f"echo '=== {name}'; {command}\n" for name, command in _COMMANDS.items())
    output = host.run(["sh", "-c", script + "true"]).stdout
    sections = {}
    for block in output.split("=== ")[1:]:
        name, _, text = block.partition("\n")
        # nft's blocks would lose their meaning line by line.
        lines = text.split("\n\n") if name == "nft" else text.splitlines()
        sections[name] = frozenset(f"{host.name}: {name} " + " ".join(x.split()) for x in lines)
    processes = [f"{one.pid} {one.command}" for one in host.processes()]
    mounts = [
        " ".join(line.split()[4:5] + line.partition(" - ")[2].split()[:1])
        for line in Path(f"/proc/{host.pid}/mountinfo").read_text().splitlines()
    ]
    upper = f"{host.tmp}/over/upper"
    files = [line for tree in _TREES for line in _files(host.path(tree), tree)]
    files += _files(host.path(upper), "/etc")
    for name, lines in (("process", processes), ("mount", mounts), ("file", files)):
        sections[name] = frozenset(f"{host.name}: {name} {line}" for line in lines)
    return sections


def diff(before: State, after: State) -> list[str]:
    """Return the lines that differ: `host: section + line` (came) or `- line` (went)."""
    found = []
    for name in before:
        for sign, lines in (("+", after[name] - before[name]), ("-", before[name] - after[name])):
            found += [line.replace(f": {name} ", f": {name} {sign} ", 1) for line in sorted(lines)]
    return found


def _files(tree: Path, shown_as: str) -> list[str]:
    """Return a line per file with its mode and content, a digest where it is long."""
    found = []
    for folder, folders, files in os.walk(tree):
        for name in folders + files:
            path = Path(folder, name)
            try:
                mode = path.lstat().st_mode
                content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            except FileNotFoundError:
                continue
            is_long = len(content) > _SHOWN_BYTES
            text = hashlib.sha256(content).hexdigest() if is_long else repr(content)[1:]
            found.append(f"{shown_as}/{path.relative_to(tree)} {mode:o} {text}")
    return found
