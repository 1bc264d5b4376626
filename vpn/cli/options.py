"""The options that `up` and `run` share: login, names, and how UDP is carried."""

from __future__ import annotations

import functools
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import click

from vpn.config.forwards import parse_host
from vpn.config.settings import DnsMode, SessionSettings
from vpn.errors import UsageError

_UDP = {"auto": None, "datagram": True, "stream": False}


def access(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command these options; it gets them as the argument `access`, without a target yet."""

    @click.option(
        "-i",
        "--identity",
        "identities",
        multiple=True,
        type=click.Path(path_type=Path),
        help="Log in with this private key. Repeatable; default: the agent's and ~/.ssh/id_*.",
    )
    @click.option("--host-key", metavar="SHA256:…", help="Accept only this key of the server.")
    @click.option(
        "--accept-new", is_flag=True, help="Add the key of an unknown server to known_hosts."
    )
    @click.option(
        "--dns",
        type=click.Choice(["virtual", "remote"]),
        help="Answer every name at once, or ask the far end first. Default: ask, where it can "
        "answer.",
    )
    @click.option("--dns-server", metavar="ADDRESS", help="Ask this resolver of the far end.")
    @click.option(
        "--host",
        "hosts",
        multiple=True,
        metavar="NAME=ADDRESS[:PORT]",
        help="Give a name an address at the far end. Repeatable.",
    )
    @click.option(
        "--udp",
        type=click.Choice(list(_UDP)),
        default="auto",
        help="Carry UDP in datagrams of the transport, or in its stream. Default: in datagrams, "
        "where the transport has them and what is sent fits.",
    )
    @functools.wraps(command)
    def with_access(
        *args: Any,
        identities: tuple[Path, ...],
        host_key: str | None,
        accept_new: bool,
        dns: DnsMode | None,
        dns_server: str | None,
        hosts: tuple[str, ...],
        udp: str,
        **rest: Any,
    ) -> Any:
        chosen = SessionSettings(
            identities=identities,
            host_key=host_key,
            accept_new=accept_new,
            dns=dns or "",
            dns_server=_resolver(dns_server),
            hosts=dict(map(parse_host, hosts)),
            datagrams=_UDP[udp],
        )
        return command(*args, access=chosen, **rest)

    return with_access


def _resolver(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return str(ip_address(text))
    except ValueError:
        raise UsageError(
            f"cannot read --dns-server {text!r}: write the address of a resolver"
        ) from None
