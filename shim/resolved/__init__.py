"""The process that configures systemd-resolved and NetworkManager for the capture TUN."""
