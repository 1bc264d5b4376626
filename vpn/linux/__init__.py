"""What the kernel offers: rtnetlink, namespaces, Landlock, privileges, secret files."""
