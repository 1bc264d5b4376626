"""The output of `capture`: lines for people, files for programs, and the filter of packets."""
