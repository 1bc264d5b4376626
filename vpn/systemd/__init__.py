"""The systemd units: rendered for this installation, installed, and checked."""
