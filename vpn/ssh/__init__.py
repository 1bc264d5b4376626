"""SSH over one duplex stream: client session, server session, failures on the wire."""
