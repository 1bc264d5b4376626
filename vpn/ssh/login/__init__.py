"""How a client proves who it is, and what its key allows: keys, authorized_keys, grants."""
