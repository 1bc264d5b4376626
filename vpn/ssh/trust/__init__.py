"""The host keys that a client accepts: known_hosts, pins and host certificates."""
