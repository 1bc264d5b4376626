"""The gate moves packets between two TUN devices; it has no capability and no network."""
