"""The flows of one tunnel: TCP, UDP and echo, each opened at the far end."""
