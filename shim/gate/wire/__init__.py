"""Packets as octets: headers, UDP, fragments and the virtio-net header of the TUN."""
