"""Which host keys a client trusts: known_hosts, pins and host certificates."""
