"""The server: opens connections of this machine for the channels of its clients."""
