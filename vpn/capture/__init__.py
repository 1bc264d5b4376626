"""What `capture` makes of packets: lines for people, a file for programs, a choice among them."""
