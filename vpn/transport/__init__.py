"""Ways to get one duplex stream to a server, and to accept one."""
