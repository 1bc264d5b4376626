"""The services behind reserved destinations: UDP, echo, names."""
