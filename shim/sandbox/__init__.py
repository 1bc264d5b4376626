"""How a process of the shim gives away what it does not need: `stages.enter`, once, for good."""
