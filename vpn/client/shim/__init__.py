"""The client's side of its links to the shim."""
