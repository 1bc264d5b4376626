"""The systemd units: rendered for this installation, installed, and held against what they need."""
