"""Throughput of the whole path and of its alternatives, in one lab and one run.

    sudo env PYTHONPATH=netns-tests python bench/path.py [ROUNDS]

app ── router ── server ── target, each a network namespace. Measured are iperf3 in each direction,
and connect-request-response-close against nginx (ab) with one client and with 16 at once. The
paths, in alternating rounds: the direct one of the kernel, a stock sshd (`ssh://`), our server
(`quic`), and sshuttle with nft. Printed are medians. CPU seconds are of the whole machine; the
programs of the benchmark are part of them on every path.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from lab import Lab, services, tcp, until
from lab.addresses import SERVER, TARGET
from lab.overlay import Overlay

SECONDS = 3
NETWORK = "203.0.113.0/25"
WAYS = ("direct", "ssh", "quic", "sshuttle")
FIGURES = ("up", "down", "one", "many")


def machine_cpu() -> float:
    """Return the CPU seconds that the machine has used so far, without idle time."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


class Bench:
    """One lab with every server running; each path is up only while it is measured."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        services.web(lab, lab.target)
        services.iperf3(lab.target)
        self.overlay = Overlay(lab)
        self.quic = self.overlay.serve()
        self.ssh = self.overlay.serve_ssh()
        self.failed: dict[str, int] = {}
        for host in lab.hosts:
            # Tens of thousands of sockets in TIME_WAIT would slow down the next round.
            host.run(["sysctl", "-qw", "net.ipv4.tcp_max_tw_buckets=2000"])

    @contextmanager
    def way(self, name: str) -> Iterator[None]:
        """Bring a path up, and take it down afterwards."""
        if name == "direct":
            yield
        elif name == "sshuttle":
            with self._sshuttle():
                yield
        else:
            self.overlay.up(self.quic if name == "quic" else self.ssh, "--dns", "virtual")
            yield
            self.overlay.down()

    @contextmanager
    def _sshuttle(self) -> Iterator[None]:
        ssh = f"ssh -c aes128-gcm@openssh.com -i {self.overlay.identity} -o BatchMode=yes "
        ssh += f"-o UserKnownHostsFile={self.overlay.identity.with_name('known_hosts')}"
        program = self.lab.app.popen(
            [
                Path(sys.executable).with_name("sshuttle"),
                *("--method", "nft", "--disable-ipv6", "--ssh-cmd", ssh),
                *("--python", sys.executable, "-r", f"alice@{SERVER.v4}", NETWORK),
            ]
        )
        until(self._is_redirected, 20, "sshuttle's rules")
        # The rules exist before their destination listens.
        until(lambda: tcp.outcome(self.lab.app, TARGET.v4, 80) == "connected", 20, "sshuttle")
        yield
        program.stop(timeout_s=10)
        until(lambda: not self._is_redirected(), 20, "the end of sshuttle's rules")

    def _is_redirected(self) -> bool:
        return "redirect to" in self.lab.app.run(["nft", "list", "ruleset"]).stdout

    def bulk(self, *, is_reverse: bool) -> tuple[float, float]:
        """Return Mbit/s and CPU seconds per GB."""
        before = machine_cpu()
        rate = services.throughput_mbit_s(
            self.lab.app, TARGET.v4, is_reverse=is_reverse, seconds=SECONDS
        )
        return rate, (machine_cpu() - before) / (rate * SECONDS / 8000)

    def connects(self, name: str, at_once: int) -> float:
        """Return connections per second, each with a request and its answer.

        A peer may fail some (then the table says how many); a way of ours may not.
        """
        argv = ["ab", "-q", "-r", "-t", str(SECONDS), "-n", "1000000", "-c", str(at_once)]
        done = self.lab.app.run([*argv, f"http://{TARGET.v4}/index.html"], timeout=60)
        found = re.search(r"Requests per second:\s+([\d.]+)", done.stdout)
        failed = re.search(r"Failed requests:\s+(\d+)", done.stdout)
        if found is None or failed is None:
            sys.exit(f"ab failed:\n{done.stdout}")
        self.failed[name] = self.failed.get(name, 0) + int(failed[1])
        if failed[1] != "0" and name != "sshuttle":
            sys.exit(f"{name}: {failed[1]} requests failed:\n{done.stdout}")
        return float(found[1])

    def round(self, name: str, add: Callable[[str, float], None]) -> None:
        """Measure every figure of one way once."""
        with self.way(name):
            for figure, is_reverse in (("up", False), ("down", True)):
                rate, cpu = self.bulk(is_reverse=is_reverse)
                add(figure, rate)
                add(f"cpu {figure}", cpu)
            add("one", self.connects(name, 1))
            add("many", self.connects(name, 16))


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    found: dict[tuple[str, str], list[float]] = {}
    with Lab(direct=True, capture=False) as lab:
        bench = Bench(lab)
        for number in range(rounds):
            for name in WAYS:

                def add(figure: str, value: float, name: str = name) -> None:
                    found.setdefault((name, figure), []).append(value)

                bench.round(name, add)
                print(f"round {number + 1} {name}", file=sys.stderr, flush=True)
    report({key: median(values) for key, values in found.items()}, rounds)
    print(f"\nfailed requests: {bench.failed}")


def report(medians: dict[tuple[str, str], float], rounds: int) -> None:
    """Print the table, and our figures as multiples of sshuttle's."""
    print(f"medians of {rounds}; Mbit/s (CPU s/GB), connections per second\n")
    print(f"{'':<10}{'up':>18}{'down':>18}{'1 at once':>12}{'16 at once':>12}")
    for name in WAYS:
        cells = [
            f"{medians[name, way]:9.0f} ({medians[name, f'cpu {way}']:5.1f})"
            for way in ("up", "down")
        ]
        row = "".join(f"{cell:>18}" for cell in cells)
        row += f"{medians[name, 'one']:>12.0f}{medians[name, 'many']:>12.0f}"
        print(f"{name:<10}{row}")
    print()
    for name in ("ssh", "quic"):
        ratios = [medians[name, figure] / medians["sshuttle", figure] for figure in FIGURES]
        print(f"{name:<10}" + "".join(f"{ratio:>16.2f} x" for ratio in ratios) + "  sshuttle")


if __name__ == "__main__":
    main()
