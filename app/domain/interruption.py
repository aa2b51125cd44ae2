"""How long work ends early when it is asked to."""


class Interrupted(Exception):
    """The work was told to stop, and nothing half-done is left behind. Not a failure: the job can be done later."""
