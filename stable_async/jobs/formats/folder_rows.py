"""Folders of images or audio files as rows: each file is the input of one request."""

from __future__ import annotations

import glob
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from stable_async.jobs.columns import ColumnError, ColumnRules
from stable_async.jobs.errors import RowProblem, UnreadableError
from stable_async.jobs.row import MAX_ID, Row
from stable_async.wording import count

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stable_async.jobs.formats.base import Rows

__all__ = ["FolderFiles", "input_field", "is_own", "is_pattern", "read_folder"]

# Files that the API accepts, by field; the other fields take images.
AUDIO = (".mp3", ".wav")
IMAGES = (".jpg", ".jpeg", ".jfif", ".png", ".webp")
# A folder below that contains one of these is a job or an export of one, and not input.
OWN = (
    "job.sqlite",
    ".export/export.json",
    *(f"{folder}/.last-run" for folder in ("images", "audio", "models")),
)
LISTED_KINDS = 5


def is_pattern(source: str) -> bool:
    """Return whether a source is a glob pattern; the name of an existing file is not."""
    return glob.has_magic(source) and not Path(source).exists()


def is_own(folder: Path) -> bool:
    """Return whether a folder is a job, even one without its ledger, or an export."""
    return any((folder / name).exists() for name in OWN)


def input_field(rules: ColumnRules) -> str:
    """Return the field for the files of a folder.

    Raises:
        ColumnError: The service takes no file, or needs more than one thing for each row.
    """
    files = rules.file_fields
    if not files:
        raise ColumnError(
            f"{rules.service} takes no input files, which folders and patterns name: name a prompt "
            "file, or another service, such as --service remove-background"
        )
    wanted = rules.required & files or (files - rules.given if len(files) == 1 else frozenset())
    others = sorted(rules.required - wanted)
    if len(wanted) != 1 or others:
        needed = " and ".join(sorted(rules.required | wanted))
        raise ColumnError(
            f"{rules.service} needs {needed}: set the others for all files with --set, or, in a "
            "data set, name their columns with --map COLUMN=FIELD"
        )
    return next(iter(wanted))


class FolderFiles:
    """The files of a folder, or of a glob pattern, in a fixed order.

    Attributes:
        root: The folder that names are relative to.
        links: Links to folders that were found and not followed.
    """

    def __init__(self, source: str) -> None:
        """Take a path or a pattern."""
        self.links: int = 0
        self.root: Path
        self.root, self._pattern = Path(source), None
        if is_pattern(source):
            self.root, self._pattern = _parts(source)

    @property
    def is_pattern(self) -> bool:
        """Whether the files are those that match a pattern, and not all below `root`."""
        return self._pattern is not None

    def names(self) -> Iterator[str]:
        """Yield the names of all files but hidden ones, relative to `root`, with `/` as
        separator.
        """
        self.links = 0
        if self._pattern is None:
            yield from self._walk(self.root, "")
            return
        names = (path.relative_to(self.root) for path in self.root.glob(self._pattern))
        for name in sorted(name for name in names if not _is_hidden(name)):
            if (self.root / name).is_file() and not self._is_in_own(name):
                yield name.as_posix()

    def _is_in_own(self, name: Path) -> bool:
        return any(is_own(self.root / folder) for folder in name.parents[:-1])

    def _walk(self, folder: Path, before: str) -> Iterator[str]:
        with os.scandir(folder) as entries:
            found = sorted(
                (entry for entry in entries if not entry.name.startswith(".")),
                key=lambda entry: entry.name,
            )
        if before and is_own(folder):
            return
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(Path(entry.path), f"{before}{entry.name}/")
            elif entry.is_file():
                yield before + entry.name
            elif entry.is_dir():
                self.links += 1


def read_folder(files: FolderFiles, rules: ColumnRules, notes: list[str]) -> Rows:
    """Read a row for each file of a kind that the service accepts. Its id is its name.

    `notes` receives lines that say what is left out.

    Raises:
        UnreadableError: There are no such files, or the service takes no files.
    """
    field = input_field(rules)
    allowed = AUDIO if field == "audio" else IMAGES
    left_out: Counter[str] = Counter()
    number = 0
    for name in files.names():
        suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 - of very many
        if suffix not in allowed:
            left_out[suffix or "without an extension"] += 1
            continue
        number += 1
        fields: dict[str, object] = {field: name}
        if len(name) <= MAX_ID and name.isprintable():
            fields["id"] = name
        elif (data := os.fsencode(name)).decode("utf-8", "replace") != name:
            yield RowProblem(number, f"the name {data!r} is not valid UTF-8: rename the file")
            continue
        yield Row(number, fields)
    kinds = ", ".join(f"{some:,} {kind}" for kind, some in left_out.most_common(LISTED_KINDS))
    links = f"links to folders are not followed: {files.links:,}" if files.links else ""
    if not number:
        others = f"; it has {kinds}" if kinds else ""
        others += links and f"; {links}"
        raise UnreadableError(0, f"has no files that end in {', '.join(allowed)}{others}")
    if links:
        notes.append(links)
    if left_out:
        notes.append(
            f"left out: {count(left_out.total(), 'other file')} of the folder ({kinds}); "
            f"{rules.service} takes {', '.join(allowed)}"
        )


def _parts(pattern: str) -> tuple[Path, str]:
    """Return the folder that a pattern begins with, and the rest of the pattern."""
    parts = Path(pattern).parts
    fixed = next(place for place, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:fixed]), str(Path(*parts[fixed:]))


def _is_hidden(name: Path) -> bool:
    return any(part.startswith(".") for part in name.parts)
