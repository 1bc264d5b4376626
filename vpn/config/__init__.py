"""The configuration that users write: targets, routes, forwards and settings."""
