"""The gate's descriptors: the event loop, the links, DNS over TCP and the tap."""
