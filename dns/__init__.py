"""The virtual resolver. Pure: bytes, time and randomness are arguments."""
