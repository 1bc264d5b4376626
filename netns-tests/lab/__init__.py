"""The test lab: simulated hosts out of namespaces, and the real programs that run on them."""

from lab.host import CommandFailedError, Host, Program, User, kill
from lab.topology import Lab
from lab.wait import until

__all__ = ["CommandFailedError", "Host", "Lab", "Program", "User", "kill", "until"]
