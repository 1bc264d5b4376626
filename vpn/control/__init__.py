"""The local API of a running tunnel: messages, server and client of its control socket."""
