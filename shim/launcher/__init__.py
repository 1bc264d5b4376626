"""The warden: starts what serves a client, waits for its end, and leaves nothing behind."""
