"""`metadata.jsonl` in step with the ledger: its lines, its mark, and what makes it rewritten."""

from __future__ import annotations

import json
import os
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from stable_async.jobs.ledger import Ledger
from stable_async.jobs.metadata import Mark, MetadataFile, find_mark
from stable_async.jobs.row import metadata_of, to_json
from tests.jobs.test_ledger import add, image_of, make, new_row

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROWS = [new_row(n, identity) for n, identity in enumerate("abcdefg", 1)]


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    """A ledger with the images of three of its rows."""
    with closing(Ledger.temporary()) as ledger:
        add(ledger, *ROWS)
        make(ledger, *ROWS[:3])
        yield ledger


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metadata.jsonl"


def expected(count: int) -> str:
    return "".join(to_json(metadata_of(row, image_of(row))) + "\n" for row in ROWS[:count])


def marked(path: Path, ledger: Ledger) -> MetadataFile:
    """Write the file, and mark its end."""
    file = MetadataFile(path, ledger)
    with ledger.transaction():
        file.mark()
    return file


@pytest.mark.parametrize("at_a_time", [1, 2, 3, 100])
def test_a_new_file_has_a_line_for_each_image(
    path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, at_a_time: int
) -> None:
    monkeypatch.setattr("stable_async.jobs.metadata.LINES_AT_A_TIME", at_a_time)
    with closing(MetadataFile(path, ledger)) as file:
        assert path.read_text() == expected(3)
        assert file.unmarked == 3
        file.append(make(ledger, *ROWS[3:5]))
        assert file.unmarked == 5
    assert path.read_text() == expected(5)
    assert find_mark(path, ledger) is None


def test_a_mark_is_the_end_of_the_file_on_the_disk(
    path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(MetadataFile(path, ledger)) as file:
        file.append(make(ledger, *ROWS[3:5]))
        synced: list[tuple[str, object]] = []
        fsync = os.fsync

        def noting(descriptor: int) -> None:
            name = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115
            synced.append((os.path.basename(name), ledger.get("metadata_size")))  # noqa: PTH119
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", noting)
        with ledger.transaction():
            file.mark()
        assert synced == [("metadata.jsonl", None)]
        assert file.unmarked == 0
        mark = find_mark(path, ledger)
        assert mark is not None
        assert mark[:2] == (path.stat().st_size, 5)
        file.append(make(ledger, ROWS[5]))
        assert file.unmarked == 1
        assert find_mark(path, ledger) == mark, "what precedes it is as it was"


@pytest.mark.parametrize("read_at_a_time", [1, 7, 1024 * 1024])
def test_a_file_that_was_copied_has_its_mark(
    path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, read_at_a_time: int
) -> None:
    monkeypatch.setattr("stable_async.jobs.metadata.READ_AT_A_TIME", read_at_a_time)
    marked(path, ledger).close()
    mark = find_mark(path, ledger)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    assert find_mark(path, ledger) == mark
    path.write_bytes(content + b"more")
    assert find_mark(path, ledger) == mark
    for other in (content[:-1], content.replace(b"a", b"b", 1), b""):
        path.write_bytes(other)
        assert find_mark(path, ledger) is None
    path.unlink()
    assert find_mark(path, ledger) is None


@pytest.mark.parametrize("name", ["size", "number", "checksum"])
def test_half_a_mark_is_none(path: Path, ledger: Ledger, name: str) -> None:
    marked(path, ledger).close()
    ledger.set(**{f"metadata_{name}": None})
    assert find_mark(path, ledger) is None


def test_a_file_that_was_not_touched_is_not_read(
    path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked(path, ledger).close()
    monkeypatch.setattr("stable_async.jobs.metadata._checksum", None)
    assert find_mark(path, ledger) is not None
    assert Mark() == (0, 0, 0)


def test_what_follows_the_mark_is_written_anew(path: Path, ledger: Ledger) -> None:
    """A killed run leaves lines that nobody has synced, and the last one may be torn."""
    with closing(marked(path, ledger)) as file:
        file.append(make(ledger, *ROWS[3:5]))
        inode = path.stat().st_ino
        os.truncate(path, path.stat().st_size - 7)
    with closing(MetadataFile(path, ledger)) as file:
        assert path.read_text() == expected(5)
        assert path.stat().st_ino == inode, "the rest stays"
        file.append(make(ledger, ROWS[5]))
        with ledger.transaction():
            file.mark()
        assert json.loads(path.read_text().splitlines()[5])["id"] == "f"
    path.write_bytes(path.read_bytes())  # the checksum decides
    assert find_mark(path, ledger) is not None


def test_a_file_that_was_edited_is_written_anew(path: Path, ledger: Ledger) -> None:
    marked(path, ledger).close()
    path.write_text(expected(3).replace('"id":"b"', '"id":"B"'))
    with closing(MetadataFile(path, ledger)) as file:
        assert path.read_text() == expected(3)
        file.append(make(ledger, ROWS[3]))
    assert path.read_text() == expected(4)


def test_rows_that_share_an_image_have_lines_of_their_own(path: Path) -> None:
    with closing(Ledger.temporary()) as ledger:
        same = {"content": b"x", "seed": 1, "metadata": {"k": 1}}
        first = new_row(1, "a", **same)
        second = new_row(2, "b", **{**same, "metadata": {"k": 2}})
        add(ledger, first, second, ROWS[2])
        assert ledger.merge_duplicates() == 1
        with closing(MetadataFile(path, ledger)) as file:
            file.append(make(ledger, first, ROWS[2]))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["id"], line.get("k"), line["file_name"]) for line in lines] == [
        ("a", 1, "images/1.png"), ("b", 2, "images/1.png"), ("c", None, "images/3.png"),
    ]  # fmt: skip


def test_a_line_that_the_system_takes_in_pieces_is_whole(
    path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow:
        def write(self, data: memoryview) -> int:
            with path.open("ab") as file:
                return file.write(data[:10])

    with closing(MetadataFile(path, ledger)) as file, monkeypatch.context() as patch:
        patch.setattr(file, "_file", Slow())
        file.append(make(ledger, ROWS[3]))
    assert path.read_text() == expected(4)
