"""Links, addresses, routes and rules by rtnetlink(7): the one package that imports pyroute2."""
