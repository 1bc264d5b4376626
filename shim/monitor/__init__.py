"""The monitor reads the requests of the client and changes the network, with CAP_NET_ADMIN."""
