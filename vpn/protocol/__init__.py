"""What client and server say to each other over SSH channels."""
