"""The gate's I/O: event loop, packet path, executor of orders, links, DNS over TCP, tap."""
