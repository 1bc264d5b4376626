"""The launcher starts the processes that serve a client, and undoes everything when they end."""
