"""Rules about destinations, and the report of what they decided."""
