"""Input files embedded in a prompt file, extracted from it."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from stable_async.api.media_types import sniff
from stable_async.files import write_atomically
from stable_async.media import SUFFIXES

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["INPUTS", "InputStore"]

# The folder for them, inside that of the job.
INPUTS = "inputs"
# Enough to show the format and size of nearly every file, which are checked before a job.
HEAD = 64 * 1024


class InputStore:
    """Stores input files, one for each content, named by its SHA-256."""

    def __init__(self, folder: Path, *, whole: bool) -> None:
        """Use a folder.

        Args:
            folder: The folder that names are relative to.
            whole: Whether files will be sent. Otherwise they are sparse: full size, but only their
                heads take up disk space.
        """
        self.folder = folder
        self._whole = whole

    def keep(self, data: bytes) -> str:
        """Write a file, unless it exists, and return its name relative to `folder`."""
        name = f"{INPUTS}/{sha256(data).hexdigest()[:32]}{SUFFIXES.get(sniff(data), '')}"
        path = self.folder / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            if self._whole:
                write_atomically(path, [data])
            else:
                with path.open("wb") as file:
                    file.write(data[:HEAD])
                    file.truncate(len(data))
        return name
