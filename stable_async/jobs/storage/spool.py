"""The spool for paid images that cannot be stored where they belong."""

from __future__ import annotations

import os
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from stable_async.files import AtomicFile

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["SPOOLED", "Spool"]

SPOOLED = "spooled"


class Spool:
    """Files by name, in `spooled/` of the job's folder or, if that is full, in the system's
    temporary folder.

    All methods block.

    Attributes:
        folders: Possible folders, in the order in which they are tried.
    """

    def __init__(self, job: Path) -> None:
        """Spool for the job in the folder `job`; nothing is created before it is needed."""
        digest = sha256(os.fsencode(job.absolute())).hexdigest()[:16]
        elsewhere = Path(tempfile.gettempdir(), f"stable-async-{SPOOLED}-{digest}")
        self.folders: tuple[Path, Path] = (job / SPOOLED, elsewhere)

    def open(self, name: str, data: bytes = b"") -> AtomicFile:
        """Return an open file for an image, with `data` already written.

        Raises:
            OSError: There is no space anywhere.
        """
        failure: OSError | None = None
        for folder in self.folders:
            file = AtomicFile(folder / name)
            try:
                self._create(folder, name)
                file.write([data])
            except OSError as error:
                file.discard()
                failure = failure or error
            else:
                return file
        assert failure is not None  # noqa: S101 - there are folders
        raise failure

    def find(self, name: str) -> Path | None:
        """Return the path of a file; `None` if it is not spooled."""
        for folder in self.folders:
            if _is_ours(folder) and (folder / name).is_file():
                return folder / name
        return None

    def names(self) -> Iterator[str]:
        """Return the names of all files."""
        for folder in filter(_is_ours, self.folders):
            for path in folder.glob("*/*"):
                if not path.name.startswith("."):
                    yield path.relative_to(folder).as_posix()

    @staticmethod
    def _create(folder: Path, name: str) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        if not _is_ours(folder):
            raise PermissionError(1, "belongs to another user", str(folder))
        (folder / name).parent.mkdir(exist_ok=True)


def _is_ours(folder: Path) -> bool:
    """Return whether a folder exists and belongs to this user: others may write beside it."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    return folder.is_dir() and not folder.is_symlink() and status.st_uid == os.geteuid()
