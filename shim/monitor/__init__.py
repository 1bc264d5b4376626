"""The monitor: what reads the requests of the client, with a capability. It changes the network."""
