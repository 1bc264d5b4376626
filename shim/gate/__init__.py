"""The gate: moves packets between two TUN devices. It has no capability and no way out."""
