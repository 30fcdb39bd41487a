"""Folders of jobs, written image by image without a server."""

from __future__ import annotations

import hashlib
import struct
import zlib
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Self

from stable_async.jobs.ledger import Ledger
from stable_async.jobs.metadata import MetadataFile
from stable_async.jobs.plan import Plan
from stable_async.jobs.recovery import LEDGER_NAME, METADATA_NAME
from stable_async.jobs.row import ImageFacts, Result, Row
from stable_async.jobs.storage.base import file_stem, file_suffix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

PNG = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a part of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def broken_png() -> bytes:
    """Return an image that is only found to be damaged when it is decoded."""
    head = struct.pack(">IIBBBBB", 2, 2, 8, 2, 0, 0, 0)
    return PNG + chunk(b"IHDR", head) + chunk(b"IDAT", b"x") + chunk(b"\0DAT", b"y")


def png(color: int, padding: int = 0) -> bytes:
    """Return an image of one pixel that readers of PNG take, and some bytes that they skip."""
    head = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixel = zlib.compress(b"\0" + color.to_bytes(3, "big"))
    return PNG + b"".join(
        chunk(kind, data)
        for kind, data in (
            (b"IHDR", head),
            (b"juNK", b"\0" * padding),
            (b"IDAT", pixel),
            (b"IEND", b""),
        )
    )


class JobFolder:
    """A job's folder that grows by calls, as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self._ledger = Ledger.open(folder / LEDGER_NAME)
        with self._ledger.transaction():
            self._ledger.begin_plan(checked=True)
        self._alone: Callable[[], AbstractContextManager[object]] = self._ledger.transaction

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        metadata = MetadataFile(self.folder / METADATA_NAME, self._ledger)
        metadata.close()
        self._ledger.close()

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Keep what is added in one transaction: quicker for many images."""
        with self._ledger.transaction():
            self._alone = nullcontext
            yield
            self._alone = self._ledger.transaction

    def add(
        self,
        prompt: str = "a lighthouse",
        *,
        identity: str | None = None,
        service: str = "core",
        parameters: dict[str, object] | None = None,
        metadata: dict[str, object] | None = None,
        data: bytes | None = None,
        content_type: str = "image/png",
        filtered: bool = False,
        file_name: str | None = None,
    ) -> ImageFacts:
        """Add a prompt and its image."""
        row = self._prompt(prompt, identity, service, parameters or {}, metadata)
        data = png(row.position) if data is None else data
        suffix = file_suffix(content_type, filtered=filtered)
        name = file_name or f"images/{file_stem(row.position, row.id)}{suffix}"
        if file_name is None:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        sent = 1_770_000_000 + row.position * 0.07
        image = ImageFacts(
            position=row.position,
            file_name=name,
            content_type=content_type,
            bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            width=1,
            height=1,
            seed=row.seed,
            finish_reason="CONTENT_FILTERED" if filtered else "SUCCESS",
            request_id=f"{row.position:032x}",
            credits=3.0,
            sent_at=sent,
            finished_at=sent + 4,
        )
        with self._alone():
            self._ledger.claim(row)
            self._ledger.settle(row, Result("filtered" if filtered else "done", "spent", image))
            self._ledger.count_departures({int(sent): (1, 0)})
        return image

    def fail(self, prompt: str, reason: str, error: str) -> None:
        """Add a prompt that has no image."""
        row = self._prompt(prompt, None, "core", {}, None)
        with self._ledger.transaction():
            self._ledger.claim(row)
            self._ledger.settle(row, Result("failed", "returned", reason=reason, error=error))

    def replace(self, position: int) -> None:
        """Let the image at a position be one that another took the place of."""
        with self._ledger.transaction():
            self._ledger.apply(Plan(replaced=[position]))

    def _prompt(
        self,
        prompt: str,
        identity: str | None,
        service: str,
        parameters: dict[str, object],
        metadata: dict[str, object] | None,
    ) -> Row:
        with self._alone():
            position = self._ledger.last_position() + 1
            row = Row(
                position,
                {"prompt": prompt, **parameters},
                metadata or {},
                service,
                identity or f"prompt.{position}",
                seed=position * 7,
                price=3.0,
                position=position,
            )
            self._ledger.apply(Plan(add=[row]))
        return row
