import errno
import os
import socket

import pytest
from asyncssh.constants import OPEN_CONNECT_FAILED

from vpn.protocol.failure import Failure
from vpn.server.failures import from_error
from vpn.ssh.open_failure import classify


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, ""), Failure.ECONNREFUSED),
        (OSError(errno.EHOSTUNREACH, ""), Failure.EHOSTUNREACH),
        (OSError(errno.ENETUNREACH, ""), Failure.ENETUNREACH),
        (OSError(errno.EADDRNOTAVAIL, ""), Failure.ENETUNREACH),
        (TimeoutError(errno.ETIMEDOUT, ""), Failure.ETIMEDOUT),
        (TimeoutError(), Failure.ETIMEDOUT),
        (PermissionError(errno.EACCES, ""), Failure.POLICY),
        (OSError(errno.EMFILE, ""), Failure.UNAVAILABLE),
        (OSError("no number"), Failure.UNAVAILABLE),
        (socket.gaierror(socket.EAI_NONAME, ""), Failure.NXDOMAIN),
        (socket.gaierror(socket.EAI_NODATA, ""), Failure.NXDOMAIN),
        (socket.gaierror(socket.EAI_AGAIN, ""), Failure.UNAVAILABLE),
        (socket.gaierror(socket.EAI_FAIL, ""), Failure.UNAVAILABLE),
    ],
)
def test_errors_of_the_kernel_and_the_resolver(error: OSError, failure: Failure) -> None:
    assert from_error(error).failure is failure


@pytest.mark.parametrize("number", [errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH])
def test_words_of_this_machine_mean_what_its_numbers_mean(number: int) -> None:
    said = classify(OPEN_CONNECT_FAILED, os.strerror(number))
    assert said.failure is from_error(OSError(number, "")).failure
