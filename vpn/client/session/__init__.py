"""The client's SSH session to one server: where the server is, and when to try again."""
