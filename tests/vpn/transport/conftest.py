"""A receive window of QUIC that is quick to fill."""

import fake_engine
import pytest

from vpn.transport.quic import aioquic_engine


@pytest.fixture
def small_window(monkeypatch: pytest.MonkeyPatch) -> int:
    """The bytes that a peer may send beyond what was read, at every engine."""
    window_bytes = 1 << 18
    for module in (aioquic_engine, fake_engine):
        monkeypatch.setattr(module, "WINDOW_BYTES", window_bytes)
    monkeypatch.setattr(aioquic_engine, "CREDIT_STEP_BYTES", window_bytes // 4)
    return window_bytes
