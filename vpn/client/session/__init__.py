"""The client's SSH session to one server: its state, its connector and its renewal."""
