"""Links, addresses, routes, rules and filters by netlink(7); only this package uses pyroute2."""
