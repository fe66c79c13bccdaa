"""The error that is the user's to mend: one line, what is wrong, the value, what to do."""

__all__ = ["UserError"]


class UserError(Exception):
    """Bad input. The command line prints its message alone and exits with code 2."""
