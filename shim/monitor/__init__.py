"""The monitor: the only process with a capability. It owns network state and its journal."""
