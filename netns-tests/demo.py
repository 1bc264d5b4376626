"""The main job, shown: `make demo`. Exits 0 only if everything that it shows is as it should be.

    app ──── router ──── server ──── target        four hosts, each a network namespace
     └ overlay-vpn up       └ overlay-vpn server      └ web, git, ssh, iperf3, DNS

There is no way from app to target but through the tunnel. First through our server over QUIC, then
through a stock sshd in the same place.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from lab import Lab, services, state, tcp, until
from lab.addresses import CLOSED_PORT, NO_ROUTE, TARGET
from lab.host import CommandFailedError
from lab.overlay import Endpoint, Overlay

WWW, GIT = "www.example.com", "git.example.com"


class ShowError(AssertionError):
    """Something was not as it should be."""


class Show:
    """Runs commands on the app, shows them, and checks what came back."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def title(self, text: str) -> None:
        print(f"\n== {text}", flush=True)

    def run(
        self,
        argv: list[str],
        *,
        status: int = 0,
        says: str = "",
        as_user: bool = True,
        env: dict[str, str] | None = None,
    ) -> str:
        """Run a command; its exit status and a part of its output must be these."""
        print(f"$ {' '.join(argv)}", flush=True)
        user = self.lab.alice if as_user else None
        done = self.lab.app.run(argv, user=user, env=env or {}, check=False, timeout=60)
        text = (done.stdout + done.stderr).strip()
        print("\n".join(f"  {line}" for line in text.splitlines()[-12:]), flush=True)
        if done.returncode != status:
            raise ShowError(f"exit status {done.returncode} instead of {status}")
        if says not in text:
            raise ShowError(f"{says!r} is missing")
        return text

    def check(self, what: str, found: object, expected: object) -> None:
        """Show a fact and compare it."""
        print(f"  {what}: {found}", flush=True)
        if found != expected:
            raise ShowError(f"{what} should be {expected}")


def programs(show: Show, web: services.Web, repository: Path, round_: str) -> None:
    """Real programs through the tunnel."""
    show.title(f"{round_}: the web, by name")
    curl = ["curl", "-sS", "--cacert", str(web.ca)]
    for scheme in ("http", "https"):
        show.run([*curl, f"{scheme}://{WWW}/"], says="hello from the lab")
    show.title(f"{round_}: git over HTTPS and over SSH")
    for number, url in enumerate((f"https://{GIT}/project.git", f"ssh://{GIT}{repository}")):
        copy = show.lab.alice.home / f"copy-{round_}-{number}"
        env = {"GIT_SSL_CAINFO": str(web.ca)}
        show.run(["git", "clone", url, str(copy)], says="Cloning into", env=env)
        show.check("README is there", (copy / "README").is_file(), True)
    show.title(f"{round_}: iperf3 each way")
    for name, is_reverse in (("up", False), ("down", True)):
        rate = services.throughput_mbit_s(show.lab.app, TARGET.v4, is_reverse=is_reverse, seconds=2)
        print(f"  {name}: {rate:.0f} Mbit/s", flush=True)
        if rate <= 1:
            raise ShowError("nothing came through")
    show.title(f"{round_}: honest failures")
    show.run([*curl, f"http://{WWW}:{CLOSED_PORT}/"], status=7, says="onnect")
    show.run(["nc", "-vz", WWW, str(CLOSED_PORT)], status=1, says="Connection refused")
    outcome = tcp.outcome(show.lab.app, NO_ROUTE.v4, 80)
    show.check("a network that the server cannot reach", outcome, "ENETUNREACH")
    show.run(["dig", "+noall", "+comments", "nothing.example.com"], says="status: NXDOMAIN")
    show.run([*curl, "http://nothing.example.com/"], status=6, says="Could not resolve")


def tour(overlay: Overlay, endpoint: Endpoint, options: list[str], act: Callable[[], None]) -> None:
    """Bring the tunnel up, act, take it down, and prove that nothing is left."""
    show = Show(overlay.lab)
    argv = ["overlay-vpn", "up", endpoint.target, *endpoint.pin, *options]
    print(f"$ sudo {' '.join(argv)}", flush=True)
    overlay.up(endpoint, *options)
    for line in overlay.cli("status").stdout.splitlines():
        print(f"  {line}", flush=True)
    act()
    show.title("down")
    print("$ overlay-vpn down", flush=True)
    overlay.down()
    left: list[str] = []

    def is_clean() -> bool:
        app = overlay.lab.app
        left[:] = state.diff(overlay.lab.before[app], state.snapshot(app))
        return not left

    # The network is as before when `down` returns; the client ends a moment later.
    with suppress(TimeoutError):
        until(is_clean, 10, "nothing to be left")
    show.check("left behind", left or "nothing", "nothing")


def main() -> None:
    if os.geteuid() != 0:
        os.execvp(
            "unshare", ["unshare", "--user", "--map-root-user", "--fork", sys.executable, __file__]
        )
    with Lab() as lab:
        show = Show(lab)
        show.title("without a tunnel there is no way from app to target")
        show.check("connect", tcp.outcome(lab.app, TARGET.v4, 80), "ENETUNREACH")
        services.names(lab.target)
        web = services.web(lab, lab.target)
        repository = services.repository(lab.target, web.root)
        services.sshd(lab, lab.target)
        services.iperf3(lab.target)
        overlay = Overlay(lab)

        show.title("our server, over QUIC")
        endpoint = overlay.serve()
        print("\n".join(f"  {line}" for line in endpoint.program.stdout.splitlines()))
        tour(overlay, endpoint, [], lambda: programs(show, web, repository, "quic"))

        show.title("a stock sshd: nothing of ours runs there")
        stock = overlay.serve_ssh()
        options = ["--dns-server", TARGET.v4]
        tour(overlay, stock, options, lambda: programs(show, web, repository, "ssh"))
    print("\nAll of it was as it should be.")


if __name__ == "__main__":
    try:
        main()
    except (ShowError, CommandFailedError, subprocess.TimeoutExpired) as error:
        sys.exit(f"\nmake demo: {error}")
