"""The options that `up` and `run` share: how to log in, and how names are answered."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vpn.config.forwards import parse_host
from vpn.errors import UsageError

if TYPE_CHECKING:
    from vpn.config.target import Target
    from vpn.linux.privileges import LocalUser
    from vpn.ssh.session.client import Login


_UDP = {"auto": None, "datagram": True, "stream": False}


@dataclass(frozen=True, slots=True)
class Access:
    """What was said on the command line."""

    identities: tuple[Path, ...]
    host_key: str | None
    accept_new: bool
    dns: str
    """`virtual`, `remote`, or empty for the best that the far end can do."""
    dns_server: str | None
    hosts: Mapping[str, tuple[str, int]]
    """Names that have an address and port, 0 for any port."""
    datagrams: bool | None
    """As in `vpn.transport.base.Dialing`."""

    def login(self, target: Target, who: LocalUser) -> Login:
        """Return how to log in; reads known_hosts. Raises ConfigurationError, UsageError."""
        from vpn.ssh.session import client
        from vpn.ssh.trust import known_hosts

        return client.Login(
            user=target.user or who.name,
            host_keys=known_hosts.policy_for(
                target.address, pin=self.host_key, accept_new=self.accept_new
            ),
            agent_path=os.environ.get("SSH_AUTH_SOCK"),
            identities=tuple(path.expanduser() for path in self.identities) or None,
        )


def access(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command these options; it gets them as one argument `access`."""

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
        dns: str | None,
        dns_server: str | None,
        hosts: tuple[str, ...],
        udp: str,
        **rest: Any,
    ) -> Any:
        resolver, static = _resolver(dns_server), dict(map(parse_host, hosts))
        chosen = Access(identities, host_key, accept_new, dns or "", resolver, static, _UDP[udp])
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
