"""The flows of one tunnel: TCP, UDP and ICMP echo, each opened at the far end."""
