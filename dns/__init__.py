"""DNS: the virtual resolver, and a stub client. Pure: bytes, time and randomness are arguments."""
