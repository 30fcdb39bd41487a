"""Exit statuses, and the errors that end a command with one line instead of a traceback."""

__all__ = ["CANNOT_WORK", "INTERRUPTED", "OK", "WRONG_USAGE", "UsageError"]

OK = 0
CANNOT_WORK = 1
WRONG_USAGE = 2
SOME_FAILED = 3
BUDGET_REACHED = 4
INTERRUPTED = 130


class UsageError(Exception):
    """A command was called with wrong arguments."""
