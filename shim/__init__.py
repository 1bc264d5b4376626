"""The privileged side: the monitor, which owns network state, and the gate, which moves packets."""
