"""The protocol of client and server, in the channels of an SSH session."""
