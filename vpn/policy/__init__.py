"""Which destinations are allowed, and the report of what was decided."""
