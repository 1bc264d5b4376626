"""The unprivileged side: command line, SSH over a transport, client and server."""
