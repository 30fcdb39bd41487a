"""Input files of rows: their SHA-256 is part of a row's content, so that a change is noticed."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b, file_digest
from typing import TYPE_CHECKING

from stable_async.api.services import SERVICES
from stable_async.jobs.row import KnownInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from stable_async.jobs.ledger import Ledger
    from stable_async.jobs.row import Row

__all__ = ["InputFiles"]

THREADS = 4


class InputFiles:
    """Digests of input files, read again only if size or modification time differ. Calls block."""

    def __init__(self, ledger: Ledger, folder: Path, *, read_new: bool = True) -> None:
        """Read files below `folder`.

        Args:
            ledger: Has the digests of earlier runs, and receives new ones.
            folder: The folder that names of files are relative to.
            read_new: Read files that the ledger does not know; otherwise their size and time stand
                for their content, which is enough for a preview. Those that may have been moved,
                by their size, are read.
        """
        self._ledger = ledger
        self._folder = folder
        self._sizes = None if read_new else {known.size for known in ledger.inputs()}

    def add_to_content(self, rows: Sequence[Row]) -> None:
        """Add the digests of the input files of rows to their contents."""
        named = [
            (row, names)
            for row in rows
            if SERVICES[row.service].model.file_parts and (names := list(_files_of(row)))
        ]
        if not named:
            return
        digests = self._digests({name for _, names in named for name in names})
        for row, names in named:
            digest = blake2b(row.content, digest_size=16)
            for name in names:
                digest.update(digests.get(name, b"missing"))
            row.content = digest.digest()

    def are_unchanged(self) -> bool:
        """Return whether all files that the ledger knows have their size and time unchanged."""
        return all(self._look(known.name) == (known.size, known.mtime_ns)
                   for known in self._ledger.inputs())  # fmt: skip

    def _digests(self, names: set[str]) -> dict[str, bytes]:
        known = {one.name: one for one in self._ledger.inputs(names)}
        found: dict[str, bytes] = {}
        to_read: list[tuple[str, tuple[int, int]]] = []
        for name in sorted(names):
            status, before = self._look(name), known.get(name)
            if status is None:
                continue
            if before is not None and (before.size, before.mtime_ns) == status:
                found[name] = before.sha256
            elif before is None and self._sizes is not None and status[0] not in self._sizes:
                found[name] = repr(status).encode()
            else:
                to_read.append((name, status))
        with ThreadPoolExecutor(THREADS, thread_name_prefix="inputs") as pool:
            digests = list(pool.map(lambda one: self._read(one[0]), to_read))
        read = [
            KnownInput(name, *status, digest)
            for (name, status), digest in zip(to_read, digests, strict=True)
            if digest is not None
        ]
        self._ledger.store_inputs(read)
        return found | {one.name: one.sha256 for one in read}

    def _look(self, name: str) -> tuple[int, int] | None:
        try:
            status = os.stat(self._folder / name)  # noqa: PTH116 - also of what cannot be named
        except (OSError, ValueError):
            return None
        return status.st_size, status.st_mtime_ns

    def _read(self, name: str) -> bytes | None:
        try:
            with (self._folder / name).open("rb") as file:
                return file_digest(file, "sha256").digest()
        except OSError:
            return None  # the check of the row reports the problem


def _files_of(row: Row) -> Iterator[str]:
    """Yield the names of the input files of a row, in the order of the API."""
    for name in SERVICES[row.service].model.file_parts:
        value = row.fields.get(name)
        if isinstance(value, str):
            yield value
