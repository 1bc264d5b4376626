"""The confinement of a process of the shim: `stages.enter`, once, for good."""
