"""The protocols of image stores, and the names and facts of stored images."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Protocol

from stable_async.api.media_types import sniff
from stable_async.image_header import read_image_header
from stable_async.jobs.row import ImageFacts
from stable_async.media import CONTENT_FILTERED, MEDIA_TYPES, SUFFIXES

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
    "content_type_of",
    "dimensions",
    "facts_of_file",
    "file_stem",
    "file_suffix",
    "find_missing",
    "parse_stem",
    "parse_stems",
]

# Maximum files in a folder.
FILES_PER_FOLDER = 1_000
MAX_NAME = 120
FILTERED = ".filtered"
# All ends that the name of an image may have: that of a filtered one says so, should the ledger be
# lost.
FILE_SUFFIXES = tuple(mark + suffix for mark in ("", FILTERED) for suffix in SUFFIXES.values())
_PATH = re.compile(rf"(?:.*/)?(\d{{6,}})-(.+?)(?:{'|'.join(map(re.escape, FILE_SUFFIXES))})")
IRREVERSIBLE = "="
SUCCESS = "SUCCESS"
# Enough of an image to show its size: JPEG may have a color profile before it.
HEAD_SIZE = 64 * 1024


class SpooledError(OSError):
    """An image could not be stored where it belongs, and was spooled where `Store.find` finds
    it.
    """


class ImageWriter(Protocol):
    """Writes images into a `Store`."""

    @property
    def claims(self) -> Claims | None:
        """The claims of rows besides the ledger; `None` where only the ledger has them."""

    def sink(self, row: Row, image: ImageFacts) -> Sink[None]:
        """Return a sink that stores the image of a row durably: a power cut loses nothing.

        `commit` fills in the facts of its file, from `file_name` to `height`, and `finished_at`. An
        image that cannot be stored is spooled, and `commit` raises `SpooledError`.
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

    def find(self, position: int, identity: str) -> ImageFacts | None:
        """Return the image of a row if there is one; a spooled one is moved to its place.

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
    # The id is escaped reversibly unless it is very long.
    name = re.sub(
        r"[^A-Za-z0-9._-]",
        lambda hit: "".join(f"={byte:02X}" for byte in hit[0].encode()),
        identity,
    )
    if name.endswith(FILTERED):
        name = f"{name.removesuffix(FILTERED)}=2E{FILTERED[1:]}"
    if len(name) > MAX_NAME:
        digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
        name = f"{name[: MAX_NAME - 20]}-{digest}{IRREVERSIBLE}"
    return f"{position // FILES_PER_FOLDER:04d}/{position:06d}-{name}"


def parse_stem(name: str) -> tuple[int, str | None] | None:
    """Return position and id of an image by its path; `None` if the path does not have them."""
    match = _PATH.fullmatch(name)
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


def content_type_of(name: str) -> str:
    """Return the media type of an image by its name."""
    return MEDIA_TYPES.get(PurePosixPath(name).suffix, "image/png")


def file_suffix(content_type: str, *, filtered: bool = False) -> str:
    """Return the end of the name of such an image."""
    return (FILTERED if filtered else "") + SUFFIXES.get(content_type, ".png")


def dimensions(head: bytes) -> tuple[int | None, int | None]:
    """Return width and height of an image, pixels; `None` if its beginning does not show them."""
    try:
        header = read_image_header(head)
    except EOFError:
        header = None
    return (header.width, header.height) if header else (None, None)


def facts_of_file(position: int, file_name: str, size: int, sha256: str, head: bytes) -> ImageFacts:
    """Return what a stored image and its name show; `head` is its beginning."""
    image = ImageFacts(position, file_name, sniff(head), size, sha256, *dimensions(head))
    is_filtered = file_name.rpartition(".")[0].endswith(FILTERED)
    image.finish_reason = CONTENT_FILTERED if is_filtered else SUCCESS
    return image


def find_missing(
    file_names: Iterable[str],
    path_of: Callable[[str], str],
    paths_in: Callable[[str], Iterable[str]],
) -> list[str]:
    """Return the names of images that are missing; each folder is listed once.

    Args:
        file_names: Names of images.
        path_of: Returns the path of an image by its name.
        paths_in: Returns the paths of all files in a folder.
    """
    listed: dict[str, frozenset[str]] = {}
    missing = []
    for name in file_names:
        path = path_of(name)
        folder = path.rpartition("/")[0]
        if folder not in listed:
            listed[folder] = frozenset(paths_in(folder))
        if path not in listed[folder]:
            missing.append(name)
    return missing
