"""The protocols of image stores, and the names and facts of stored images."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Protocol

from stable_async.image_header import read_image_header
from stable_async.jobs.row import ImageFacts
from stable_async.media import MEDIA_TYPES, SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractAsyncContextManager

    from stable_async.files import Sink
    from stable_async.jobs.row import Row
    from stable_async.jobs.shard import Shard
    from stable_async.jobs.storage.claims import Claims
    from stable_async.jobs.storage.facts import RowFacts

__all__ = [
    "FILE_SUFFIXES",
    "FILTERED",
    "HEAD_SIZE",
    "ImageWriter",
    "SpooledError",
    "Store",
    "StoredImage",
    "content_type_of",
    "describe",
    "file_stem",
    "file_suffix",
    "parse_stem",
    "parse_stems",
]

# The most files in a folder.
FILES_PER_FOLDER = 1_000
MAX_NAME = 120
FILTERED = ".filtered"
# All ends that the name of an image may have: that of a filtered one says so, should the ledger be
# lost.
FILE_SUFFIXES = tuple(mark + suffix for mark in ("", FILTERED) for suffix in SUFFIXES.values())
IRREVERSIBLE = "="
# Enough of an image to show its size: JPEG may have a color profile before it.
HEAD_SIZE = 64 * 1024


@dataclass(frozen=True, slots=True)
class StoredImage:
    """A stored image, and the facts in its bytes.

    Attributes:
        file_name: A path relative to the job's folder, or a URL.
        content_type: Media type.
        bytes: Length.
        sha256: Digest, hexadecimal.
        width: Pixels; `None` if the header cannot be read.
        height: Pixels.
        filtered: Whether the content filter blurred it.
    """

    file_name: str
    content_type: str
    bytes: int
    sha256: str
    width: int | None
    height: int | None
    filtered: bool

    def facts(
        self,
        *,
        position: int,
        seed: int | None,
        finish_reason: str | None,
        price: float | None,
        request_id: str | None = None,
        sent_at: float | None = None,
        finished_at: float | None = None,
    ) -> ImageFacts:
        """Return the facts of the image, with what is known of its row and its request."""
        return ImageFacts(
            position=position,
            file_name=self.file_name,
            content_type=self.content_type,
            bytes=self.bytes,
            sha256=self.sha256,
            width=self.width,
            height=self.height,
            seed=seed,
            finish_reason=finish_reason,
            request_id=request_id,
            credits=price,
            sent_at=sent_at,
            finished_at=finished_at,
        )


class SpooledError(OSError):
    """An image could not be stored where it belongs, and was spooled where `Store.find` finds
    it.
    """


class ImageWriter(Protocol):
    """Writes images into a `Store`."""

    @property
    def claims(self) -> Claims | None:
        """The claims of rows besides the ledger; `None` where only the ledger has them."""

    def sink(
        self,
        row: Row,
        content_type: str,
        *,
        filtered: bool,
        facts: Callable[[StoredImage], ImageFacts],
    ) -> Sink[ImageFacts]:
        """Return a sink that stores one image durably: a power cut loses nothing.

        An image that cannot be stored is spooled, and `commit` raises `SpooledError`.
        """


class Store(Protocol):
    """Stores images by stem (`file_stem`); all its calls block.

    Attributes:
        names_in_job: Names that this store creates in the folder of a job.
        keeps_facts: Whether the facts of rows are stored here as well.
    """

    names_in_job: tuple[str, ...]
    keeps_facts: bool

    def writing(self) -> AbstractAsyncContextManager[ImageWriter]:
        """Return the writer of new images, for one event loop."""

    def probe(self) -> None:
        """Write, sync, rename and remove a probe, to fail before the first image is paid for.

        Raises:
            OSError: Images cannot be stored.
        """

    def tidy(self) -> None:
        """Remove incomplete files whose writer has ended."""

    def missing(self, file_names: Iterable[str]) -> list[str]:
        """Return which of these images are missing."""

    def find(self, stem: str) -> StoredImage | None:
        """Return the image of a stem if there is one; a spooled one is moved to its place.

        Raises:
            OSError: It cannot be moved there.
        """

    def facts(self, stems: Iterable[str]) -> Iterator[RowFacts | None]:
        """Return the facts of rows as the next run finds them; `None` where none exist.

        Raises:
            StorageError: A file does not hold facts, or those of a newer version.
        """

    def all_facts(self, has: Callable[[int], bool]) -> Iterator[tuple[RowFacts, bool]]:
        """Return the same for all rows, and whether their images were replaced.

        Args:
            has: Returns whether the row at a position is asked for.

        Raises:
            StorageError: As for `facts`.
        """

    def last_run(self, shard: Shard) -> str | None:
        """Return the token of the last run of a part; `None` where none is stored."""

    def begin_run(self, shard: Shard) -> str:
        """Store and return a new token for a run, which `last_run` returns from then on."""

    def complete(self, stem: str, row: Row, image: ImageFacts) -> None:
        """Store the facts of an image that was found without them."""

    def owns(self, file_name: str) -> bool:
        """Return whether an image of this name would be stored here."""

    def size_of(self, file_name: str) -> int | None:
        """Return the length of an image by its name; `None` if there is none."""

    def images(self) -> Iterator[tuple[int, str]]:
        """Return position and id of every image whose name has them."""

    def retire(self, file_name: str) -> str:
        """Move a replaced image to `replaced/`, and return its new name."""

    def free_space(self) -> int | None:
        """Return the bytes that are free; `None` if not known."""


def file_stem(position: int, identity: str) -> str:
    """Return folder and name of an image, without extension.

    The position keeps folders small and names distinct on any disk; the id is for the reader, and
    identifies the image if the ledger is lost.
    """
    return f"{position // FILES_PER_FOLDER:04d}/{position:06d}-{_escape(identity)}"


def parse_stem(name: str) -> tuple[int, str | None] | None:
    """Return position and id of an image by its path; `None` if the path does not have them."""
    match = re.fullmatch(
        r"(?:.*/)?(\d{6,})-(.+?)(?:\.filtered)?\.(?:png|jpg|webp|mp3|wav|glb)", name
    )
    if match is None:
        return None
    position = int(match[1])
    if match[2].endswith(IRREVERSIBLE):
        return position, None
    latin = re.sub(r"=([0-9A-F]{2})", lambda hit: chr(int(hit[1], 16)), match[2])
    try:
        return position, latin.encode("latin-1").decode()
    except ValueError:
        return position, None


def parse_stems(names: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Return position and id of each image whose name has both."""
    for name in names:
        match parse_stem(name):
            case int(position), str(identity):
                yield position, identity


def _escape(identity: str) -> str:
    """Return an id as part of a file name, reversibly unless it is very long."""
    name = re.sub(
        r"[^A-Za-z0-9._-]",
        lambda hit: "".join(f"={byte:02X}" for byte in hit[0].encode()),
        identity,
    )
    if name.endswith(FILTERED):
        name = f"{name.removesuffix(FILTERED)}=2E{FILTERED[1:]}"
    if len(name) <= MAX_NAME:
        return name
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return f"{name[: MAX_NAME - 20]}-{digest}{IRREVERSIBLE}"


def content_type_of(name: str) -> str:
    """Return the media type of an image by its name."""
    return MEDIA_TYPES.get(PurePosixPath(name).suffix, "image/png")


def file_suffix(content_type: str, *, filtered: bool = False) -> str:
    """Return the end of the name of such an image."""
    return (FILTERED if filtered else "") + SUFFIXES.get(content_type, ".png")


def describe(
    file_name: str, content_type: str, size: int, sha256: str, head: bytes, *, filtered: bool
) -> StoredImage:
    """Return the facts of a stored image; `head` is its beginning."""
    try:
        image = read_image_header(head)
    except EOFError:
        image = None
    width, height = (image.width, image.height) if image else (None, None)
    return StoredImage(file_name, content_type, size, sha256, width, height, filtered)
