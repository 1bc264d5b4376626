"""The errors that reach a user: one line each, and a stable exit status.

A message says what failed, where, and what to do. Exit statuses are part of the interface
(overlay-vpn(1)): 1 failure, 2 usage, 76 another version, 77 not permitted and 78 configuration
(sysexits(3)), 125 a failure of `run` or `enter` itself (env(1)), 255 transport or authentication
(ssh(1)).
"""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit statuses of the command line."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    PROTOCOL = 76
    NOT_PERMITTED = 77
    CONFIGURATION = 78
    OURS = 125
    """A failure of `run` or `enter`, whose other statuses are those of the command."""
    TRANSPORT = 255


class OverlayError(Exception):
    """An error with one line for people and an exit status for scripts."""

    status = Exit.FAILURE

    def __init_subclass__(cls, status: Exit | None = None) -> None:
        if status is not None:
            cls.status = status


class UsageError(OverlayError, status=Exit.USAGE):
    """The command line is not valid."""


class NotPermittedError(OverlayError, status=Exit.NOT_PERMITTED):
    """The caller, or this process, lacks a permission."""


class VersionError(OverlayError, status=Exit.PROTOCOL):
    """A running overlay-vpn speaks another version of the control protocol."""

    def __init__(self) -> None:
        super().__init__(
            "the running overlay-vpn is of another version; restart it: run 'overlay-vpn down' "
            "as root, then 'overlay-vpn up'"
        )


class ConfigurationError(OverlayError, status=Exit.CONFIGURATION):
    """A file, key or setting is missing, unreadable or contradicts another."""


class TransportError(OverlayError, status=Exit.TRANSPORT):
    """The server cannot be reached, or the stream to it broke."""


class AuthenticationError(OverlayError, status=Exit.TRANSPORT):
    """One side does not accept the identity of the other."""
