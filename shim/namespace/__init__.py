"""The rootless shim of `overlay-vpn run`: the namespaces of one command, and their gate."""
