"""The login of a client: its keys, authorized_keys, and the grant of each key."""
