"""The server: channels become connections of this machine."""
