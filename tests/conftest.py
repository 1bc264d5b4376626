"""What all unit tests share: how Hypothesis tries."""

from hypothesis import settings

# No wall clock: on a busy machine an example may wait for longer than it runs.
settings.register_profile("ours", deadline=None)
settings.load_profile("ours")
