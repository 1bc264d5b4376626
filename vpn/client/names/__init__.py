"""Names on the client's side: the far end's resolver, the resolvers of this machine, the pool."""
