"""A file that many append to: what each reads, and what becomes of it when others replace it."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stable_async.quota.homes.append_log import READ_SIZE, AppendLog, NotALogError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAGIC = b"a log"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


def descriptors() -> int:
    return len(os.listdir("/dev/fd"))  # noqa: PTH208 - with the one that reads it


@pytest.fixture(autouse=True)
def closes_its_files() -> Iterator[None]:
    before = descriptors()
    yield
    assert descriptors() <= before


def test_all_read_the_same_lines_in_the_same_order(path: Path) -> None:
    logs = [AppendLog.open(path, MAGIC) for _ in range(3)]
    read: list[list[str]] = [[] for _ in logs]
    written = []
    for number in range(60):
        # Some are longer than what is read at a time, or end where it does.
        length = (0, 7, READ_SIZE - number, 3 * READ_SIZE)[number % 4]
        written.append(f"{MAGIC.decode()} {number} {'x' * length} é")
        logs[number % 3].append(written[-1])
        if number % 7 == 0:
            with path.open("ab") as raw:
                raw.write(b"\ncut sho")
        if number % 5 == 0:
            read[number % 2] += logs[number % 2].read()
    for one, log in zip(read, logs, strict=True):
        one += log.read()
        assert log.size == path.stat().st_size
        assert log.read() == []
        log.close()
    assert read == [written] * 3


def test_nothing_is_read_of_a_file_that_was_cut(path: Path) -> None:
    log, other = AppendLog.open(path, MAGIC), AppendLog.open(path, MAGIC)
    log.append("a log")
    assert other.read() == ["a log"]
    path.write_bytes(b"")
    for _ in range(2):
        log.append("something else")
    assert other.read() == other.read() == []
    assert other.cut
    for one in log, other:
        one.close()


@pytest.mark.parametrize("content", [b"x", b"\na lot", b"a", b"a log of mine", b"\0\0\na log"])
def test_only_a_file_that_begins_like_a_log_is_one(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    if content.strip(b"\0\n").startswith(b"a log") or content == b"a":
        AppendLog.open(path, MAGIC).close()
    else:
        with pytest.raises(NotALogError):
            AppendLog.open(path, MAGIC)
    assert path.read_bytes() == content


def test_only_a_regular_file_is_a_log(path: Path) -> None:
    """Of /dev/null nobody would ever read the line that says how it begins."""
    os.mkfifo(path)
    for other in (path, Path(os.devnull)):
        with pytest.raises(NotALogError):
            AppendLog.open(other, MAGIC)


def test_a_line_that_the_disk_has_no_room_for_is_an_error_and_passed_over(path: Path) -> None:
    log = AppendLog.open(path, MAGIC)
    log.append("a log")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5, limits[1]))
    try:
        with pytest.raises(OSError, match="only 5 of 22 bytes"):
            log.append("half a line")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    log.append("the next")
    assert log.read() == ["a log", "the next"]
    log.close()


def replaced(path: Path) -> None:
    path.unlink()
    path.write_text("theirs")


def replaced_again(path: Path) -> None:
    path.write_text("others'")


OTHERS: dict[str, tuple[Callable[[Path], None] | None, Callable[[Path], None] | None, str]] = {
    "nobody else": (None, None, ""),
    "removed": (Path.unlink, None, ""),
    "replaced": (replaced, None, "theirs"),
    "replaced twice": (replaced, replaced_again, "others'"),
}


@pytest.mark.parametrize("others", OTHERS)
def test_only_the_file_itself_is_moved_away_whatever_others_do_meanwhile(
    path: Path, others: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, there = OTHERS[others]
    meanwhile = [action for action in (first, second) if action is not None]
    is_at = AppendLog.is_at

    def others_are_quick(log: AppendLog, where: Path) -> bool:
        found = is_at(log, where)
        if meanwhile:
            meanwhile.pop(0)(path)
        return found

    log = AppendLog.open(path, MAGIC)
    monkeypatch.setattr(AppendLog, "is_at", others_are_quick)
    log.move_away(path, path.with_name("aside"))
    assert [entry.read_text() for entry in path.parent.iterdir()] == [there] * bool(there)
    log.close()


def test_a_file_elsewhere_is_not_moved(path: Path) -> None:
    log = AppendLog.open(path, MAGIC)
    path.rename(path.with_name("elsewhere"))
    log.move_away(path, path.with_name("aside"))
    path.write_text("theirs")
    log.move_away(path, path.with_name("aside"))
    assert {entry.name for entry in path.parent.iterdir()} == {"log", "elsewhere"}
    assert not log.is_at(path)
    assert log.is_at(path.with_name("elsewhere"))
    log.close()


def test_a_closed_log_holds_no_descriptor(path: Path) -> None:
    before = descriptors()
    log = AppendLog.open(path, MAGIC)
    log.close()
    assert descriptors() == before


def test_a_log_whose_descriptor_is_gone_can_be_closed(path: Path) -> None:
    """As in a process that became a daemon, and closed all descriptors on the way."""
    log = AppendLog.open(path, MAGIC)
    os.close(log._descriptor)
    log.close()
    log.close()
