"""The limit of open files: each request needs a connection, and a file for a large image."""

from __future__ import annotations

import resource

from stable_async.jobs.errors import JobError

__all__ = ["raise_file_limit"]

# For the ledger, prompts, input files, and files of the program itself.
BESIDES = 192


def raise_file_limit(in_flight: int) -> None:
    """Raise the soft limit of this process if this many requests in flight need more.

    An image that arrives when no file can be opened would be paid for and lost.

    Raises:
        JobError: The hard limit is too low.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * in_flight + BESIDES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    except (ValueError, OSError):
        most = max((hard - BESIDES) // 2, 1)
        raise JobError(
            f"max_in_flight is {in_flight}, which needs {needed} open files, and this process may "
            f"have {hard}; allowed: up to {most}, or more files (`ulimit -n`)"
        ) from None
