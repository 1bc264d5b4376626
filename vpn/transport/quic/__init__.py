"""QUIC v1 (RFC 9000) as a transport: one stream and the datagrams of one connection."""
