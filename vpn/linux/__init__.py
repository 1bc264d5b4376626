"""Interfaces of the Linux kernel: rtnetlink, namespaces, Landlock, privileges, file modes."""
