"""The client: flows of the shim become channels of an SSH session."""
