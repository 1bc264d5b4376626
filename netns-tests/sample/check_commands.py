"""Tests that give single commands a network: the fixture `overlay_network`."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vpn.pytest_plugin import OverlayNetwork

CURL = ("curl", "--silent", "--show-error", "--fail", "--max-time", "10")


def test_command_without_marker_reaches_everything(overlay_network: OverlayNetwork) -> None:
    command = [*CURL, "http://www.example.com/"]
    page = overlay_network.run(command, capture_output=True, text=True, check=True).stdout
    assert page == "hello from the lab\n"


@pytest.mark.overlay_network(allow=["*.example.com:80"], deny=["git.example.com"])
def test_command_reaches_what_the_marker_allows(overlay_network: OverlayNetwork) -> None:
    def status(url: str) -> int:
        return overlay_network.run([*CURL, url], stderr=subprocess.DEVNULL).returncode

    assert status("http://www.example.com/") == 0
    assert status("http://git.example.com/") == 6
    assert status("http://203.0.113.2/") == 7


@pytest.mark.overlay_network(hosts={"api.test": "203.0.113.2:80"})
def test_command_sees_names_of_the_marker(overlay_network: OverlayNetwork) -> None:
    overlay_network.run([*CURL, "http://api.test:8080/"], stdout=subprocess.DEVNULL, check=True)


def test_each_command_has_a_network_of_its_own(
    overlay_network: OverlayNetwork, tmp_path: Path
) -> None:
    # Each waits for the other: the number of one that has gone may be given to the next.
    script = (
        'readlink /proc/self/ns/net | tee -a "$1"; until [ $(wc -l <"$1") = 2 ]; do sleep .05; done'
    )
    command = ["sh", "-c", script, "sh", str(tmp_path / "met")]
    with ThreadPoolExecutor() as at_once:
        runs = [at_once.submit(overlay_network.run, command, stdout=-1) for _ in range(2)]
    assert len({run.result().stdout for run in runs}) == 2


def test_status_and_input_are_those_of_the_command(overlay_network: OverlayNetwork) -> None:
    done = overlay_network.run(["sh", "-c", "cat; exit 125"], input=b"in", stdout=-1)
    assert (done.returncode, done.stdout) == (125, b"in")
    with pytest.raises(subprocess.CalledProcessError):
        overlay_network.run(["false"], check=True)


def test_command_that_takes_too_long_is_ended(overlay_network: OverlayNetwork) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        overlay_network.run(["sleep", "1000"], timeout=2)
