"""What users write: targets, routes, forwards, settings and profiles."""
