"""SSH sessions over one duplex stream: client, server, channels and their flow control."""
