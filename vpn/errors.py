"""The errors that reach a user: one line each, and a stable exit status.

A message says what failed, where, and what to do. Exit statuses are part of the interface
(`overlay-vpn(1)`): 1 failure, 2 usage, 76 another version, 77 not
permitted and 78 configuration (sysexits(3)),
255 transport or authentication, as ssh(1) has it.
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
    TRANSPORT = 255


class OverlayError(Exception):
    """An error with one line for people and an exit status for scripts."""

    status = Exit.FAILURE


class UsageError(OverlayError):
    """The command line is not valid."""

    status = Exit.USAGE


class NotPermittedError(OverlayError):
    """The caller, or this process, lacks a permission."""

    status = Exit.NOT_PERMITTED


class VersionError(OverlayError):
    """A running overlay-vpn speaks another version of the control protocol."""

    status = Exit.PROTOCOL

    def __init__(self) -> None:
        super().__init__(
            "the running overlay-vpn is of another version; restart it: run 'overlay-vpn down' "
            "as root, then 'overlay-vpn up'"
        )


class ConfigurationError(OverlayError):
    """A file, key or setting is missing, unreadable or contradicts another."""

    status = Exit.CONFIGURATION


class TransportError(OverlayError):
    """The server cannot be reached, or the stream to it broke."""

    status = Exit.TRANSPORT


class AuthenticationError(OverlayError):
    """One side does not accept the identity of the other."""

    status = Exit.TRANSPORT
