"""The mark of a ledger that a run has closed properly: it need not be checked in full.

It holds inode, size and times of the ledger's file after the last write. A later write to the file,
or another file in its place, makes the mark void. Calls block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stable_async.files import state_of, sync_folder, write_atomically

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["has_clean_mark", "leave_clean_mark", "remove_clean_mark"]


def leave_clean_mark(ledger: Path) -> None:
    """Mark a ledger as closed properly, unless another process has it open.

    Raises:
        OSError: It cannot be written.
    """
    if not _log(ledger).exists():
        write_atomically(_mark(ledger), [state_of(ledger.stat()).encode()])


def has_clean_mark(ledger: Path) -> bool:
    """Return whether a ledger is unchanged since a run closed it properly."""
    try:
        mark = _mark(ledger).read_text("ascii")
        return not _log(ledger).exists() and mark == state_of(ledger.stat())
    except (OSError, UnicodeError):
        return False


def remove_clean_mark(ledger: Path) -> None:
    """Remove the mark, durably: the ledger is about to be written.

    Raises:
        OSError: It cannot be removed.
    """
    mark = _mark(ledger)
    if mark.exists():
        mark.unlink()
        sync_folder(mark.parent)


def _mark(ledger: Path) -> Path:
    return ledger.with_name(f".{ledger.name}.clean")


def _log(ledger: Path) -> Path:
    return ledger.with_name(f"{ledger.name}-wal")
