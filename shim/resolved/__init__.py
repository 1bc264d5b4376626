"""Tells the services of this machine that resolve names, and manage links, about the tunnel."""
