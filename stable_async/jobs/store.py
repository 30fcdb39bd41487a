"""Where pictures are kept: a folder, or a bucket of an object store."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from stable_async.api.answers import sniff
from stable_async.api.pictures import read_picture
from stable_async.files import TEMPORARY_SUFFIX, AtomicFile, Sink

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["FolderStore", "Store", "StoredImage", "file_stem", "parse_stem"]

IMAGES = "images"
# No folder has more than so many files.
FILES_PER_FOLDER = 1_000
MAX_NAME = 120
EXTENSIONS = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}
FILTERED = ".filtered"
IRREVERSIBLE = "="
# Far enough into a picture for its size: JPEG may have a color profile before it.
HEAD_SIZE = 64 * 1024


@dataclass(frozen=True, slots=True)
class StoredImage:
    """A picture that is kept, and what its bytes say.

    Attributes:
        file_name: Where it is: a path relative to the job's folder, or a URL.
        content_type: Media type.
        bytes: Length.
        sha256: Digest, hexadecimal.
        width: Pixels; `None` when the header cannot be read.
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


class Store(Protocol):
    """Keeps pictures by stem (`file_stem`); all its calls block."""

    def sink(self, stem: str, content_type: str, *, filtered: bool) -> Sink[StoredImage]:
        """Give a sink for one picture."""

    def find(self, stem: str) -> StoredImage | None:
        """Give the picture of a stem if there is one, and clear away what is half written."""

    def owns(self, file_name: str) -> bool:
        """Tell whether a picture of this name would be here."""

    def size_of(self, file_name: str) -> int | None:
        """Give the length of a picture by its name; `None` if there is none."""

    def pictures(self) -> Iterator[tuple[int, str]]:
        """Give position and id of every picture whose name tells them."""

    def retire(self, file_name: str) -> str:
        """Put a picture that was replaced out of the way, and give its new name."""

    def settle(self, file_names: Iterable[str]) -> None:
        """Make sure that the names of pictures survive a power cut."""

    def free_space(self) -> int | None:
        """Give the bytes that are left; `None` when that is not known."""


def file_stem(position: int, identity: str) -> str:
    """Give folder and name of a picture, without extension.

    The position keeps folders small and names apart on any disk; the id is for the reader, and to
    know the picture again if the journal is lost.
    """
    return f"{position // FILES_PER_FOLDER:04d}/{position:06d}-{_escape(identity)}"


def parse_stem(name: str) -> tuple[int, str | None] | None:
    """Give position and id of a picture by its path; `None` where that does not tell them."""
    match = re.fullmatch(r"(?:.*/)?(\d{6,})-(.+?)(?:\.filtered)?\.(?:png|jpg|webp)", name)
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


def _escape(identity: str) -> str:
    """Give an id as part of a file name, reversibly unless it is very long."""
    name = re.sub(
        r"[^A-Za-z0-9._-]",
        lambda hit: "".join(f"={byte:02X}" for byte in hit[0].encode()),
        identity,
    )
    if len(name) <= MAX_NAME:
        return name
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return f"{name[: MAX_NAME - 20]}-{digest}{IRREVERSIBLE}"


def content_type_of(name: str) -> str:
    """Give the media type of a picture by its name."""
    extension = name.rpartition(".")[2]
    return {known: media for media, known in EXTENSIONS.items()}.get(extension, "image/png")


def file_suffixes(
    content_type: str | None = None, *, filtered: bool | None = None
) -> tuple[str, ...]:
    """Give the ends that the name of such a picture may have; `None` is any.

    That of a filtered picture says so, should the journal be lost.
    """
    extensions = EXTENSIONS.values() if content_type is None else [extension(content_type)]
    marks = [
        FILTERED if mark else "" for mark in ([False, True] if filtered is None else [filtered])
    ]
    return tuple(f"{mark}.{name}" for mark in marks for name in extensions)


def extension(content_type: str) -> str:
    """Give the end of names of this media type."""
    return EXTENSIONS.get(content_type, "png")


class FolderStore:
    """Pictures in `images/` of the job's folder."""

    def __init__(self, folder: Path) -> None:
        """Keep pictures below `folder`, the job's."""
        self._job = folder
        self._images = folder / IMAGES
        self._folders: set[str] = set()

    def path(self, file_name: str) -> Path:
        """Give where a picture is."""
        return self._job / file_name

    def make_folder(self, file_name: str) -> None:
        """Make the folder of a picture, for good."""
        folder = file_name.rpartition("/")[0]
        if folder not in self._folders:
            self.path(folder).mkdir(parents=True, exist_ok=True)
            _sync_folder(self._images)
            _sync_folder(self._job)
            self._folders.add(folder)

    def sink(self, stem: str, content_type: str, *, filtered: bool) -> Sink[StoredImage]:
        (suffix,) = file_suffixes(content_type, filtered=filtered)
        name = f"{IMAGES}/{stem}{suffix}"
        return _FileSink(self, name, content_type, filtered=filtered)

    def find(self, stem: str) -> StoredImage | None:
        path = self._images / stem
        if not path.parent.is_dir():
            return None
        found: Path | None = None
        for entry in path.parent.iterdir():
            if entry.name.startswith(f".{path.name}") and entry.name.endswith(TEMPORARY_SUFFIX):
                entry.unlink()
            elif entry.stem.removesuffix(FILTERED) == path.name:
                found = entry
        if found is None:
            return None
        digest = hashlib.sha256()
        with found.open("rb") as file:
            head = file.read(HEAD_SIZE)
            digest.update(head)
            while chunk := file.read(HEAD_SIZE):
                digest.update(chunk)
            size = file.tell()
        return describe(
            found.relative_to(self._job).as_posix(),
            sniff(head),
            size,
            digest.hexdigest(),
            head,
            filtered=found.stem.endswith(FILTERED),
        )

    def owns(self, file_name: str) -> bool:
        return "://" not in file_name

    def size_of(self, file_name: str) -> int | None:
        try:
            return (self._job / file_name).stat().st_size
        except (OSError, ValueError):
            return None

    def pictures(self) -> Iterator[tuple[int, str]]:
        for path in self._images.glob("*/*"):
            match parse_stem(path.name):
                case int(position), str(identity):
                    yield position, identity

    def retire(self, file_name: str) -> str:
        old = self._job / file_name
        new = self._job / "replaced" / Path(file_name).name
        if old.exists():
            new.parent.mkdir(exist_ok=True)
            old.replace(new)
        return new.relative_to(self._job).as_posix()

    def settle(self, file_names: Iterable[str]) -> None:
        for folder in {name.rpartition("/")[0] for name in file_names}:
            _sync_folder(self._job / folder)

    def free_space(self) -> int | None:
        status = os.statvfs(self._job)
        return status.f_bavail * status.f_frsize


def describe(
    file_name: str, content_type: str, size: int, sha256: str, head: bytes, *, filtered: bool
) -> StoredImage:
    """Give what is known of a picture that is kept; `head` is its beginning."""
    try:
        picture = read_picture(head)
    except EOFError:
        picture = None
    width, height = (picture.width, picture.height) if picture else (None, None)
    return StoredImage(file_name, content_type, size, sha256, width, height, filtered)


class _FileSink:
    """A file of a `FolderStore`: what its bytes say is noted while they are written."""

    def __init__(self, store: FolderStore, name: str, content_type: str, *, filtered: bool) -> None:
        self._store = store
        self._name = name
        self._content_type = content_type
        self._filtered = filtered
        self._file = AtomicFile(store.path(name))
        self._digest = hashlib.sha256()
        self._size = 0
        self._head = b""

    def write(self, chunks: Iterable[bytes]) -> None:
        self._store.make_folder(self._name)
        self._file.write(self._noted(chunks))

    def commit(self, last: Iterable[bytes] = ()) -> StoredImage:
        self._store.make_folder(self._name)
        self._file.commit(self._noted(last))
        return describe(
            self._name,
            self._content_type,
            self._size,
            self._digest.hexdigest(),
            self._head,
            filtered=self._filtered,
        )

    def discard(self) -> None:
        self._file.discard()

    def _noted(self, chunks: Iterable[bytes]) -> Iterable[bytes]:
        for chunk in chunks:
            self._digest.update(chunk)
            self._size += len(chunk)
            if len(self._head) < HEAD_SIZE:
                self._head += chunk[: HEAD_SIZE - len(self._head)]
            yield chunk


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
