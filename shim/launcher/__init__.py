"""The launcher: starts what serves a client, waits for its end, and leaves nothing behind."""
