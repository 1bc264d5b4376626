"""Names in the client: the resolver of the far end, the relay to others, the pool of the gate."""
